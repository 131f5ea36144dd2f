"""Calls under way by caller: how many there are, and how they are ended when their identity counts no more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leader.trust.callers import Caller
from utils.errors import BusyError, WireError


class LiveCalls:
    """The calls that are being answered now; at most `at_once` of each caller."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._calls: defaultdict[str, dict[asyncio.Timeout, Caller]] = defaultdict(dict)

    @contextmanager
    def under_way(self, caller: Caller, deadline: asyncio.Timeout) -> Iterator[None]:
        """A call of `caller` that ends when `deadline` is moved to now; raises BusyError if it has too many."""
        calls = self._calls[caller.place]
        if len(calls) >= self._at_once:
            raise BusyError(f"{len(calls)} calls are under way already (limits.calls_at_once)", 1.0)
        calls[deadline] = caller
        try:
            yield
        finally:
            del calls[deadline]
            if not calls:
                self._calls.pop(caller.place, None)

    def review(self, check: Callable[[Caller], None]) -> None:
        """End the calls of those whom `check` refuses."""
        now = asyncio.get_running_loop().time()
        for calls in self._calls.values():
            for deadline, caller in calls.items():
                try:
                    check(caller)
                except WireError:
                    if not deadline.expired():
                        deadline.reschedule(now)
