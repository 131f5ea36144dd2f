"""Time as the coordinator sees it: the machine's own, or one that a simulation moves on."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
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
