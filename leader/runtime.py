"""What the coordinator runs on: its clock and its arithmetic thread, or what a simulation puts in their place."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """Says what time it is and ends a wait when its time has come."""

    def now(self) -> float:
        """Seconds from a moment that stays the same."""
        ...

    def until(self, deadline: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is left with TimeoutError once `now` has reached `deadline`; None = never."""
        ...


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
