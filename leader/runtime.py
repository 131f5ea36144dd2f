"""What the coordinator runs on: its clock and its arithmetic thread, or what a simulation puts in their place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    """Says what time it is and ends a wait when its time has come."""

    def now(self) -> float:
        """Seconds from a moment that stays the same."""
        ...

    def until(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is left with TimeoutError once `now` has reached `deadline`; None = never."""
        ...


def earlier(one: float | None, other: float | None) -> float | None:
    """The earlier of two deadlines; None is never."""
    return min((at for at in (one, other) if at is not None), default=None)


class WallClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """See Clock."""
        return time.monotonic()

    def until(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """See Clock."""
        return asyncio.timeout(None if deadline is None else max(0.0, deadline - self.now()))


def _one_thread() -> Executor:
    return ThreadPoolExecutor(1, "arithmetic")


@dataclass(frozen=True)
class Host:
    """A clock, and an executor that does one thing at a time, so that sums need no lock."""

    clock: Clock = field(default_factory=WallClock)
    arithmetic: Executor = field(default_factory=_one_thread)

    async def compute(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, called on the arithmetic thread: the event loop stays free."""
        return await asyncio.get_running_loop().run_in_executor(
            self.arithmetic, partial(work, *args, **kwargs)
        )
