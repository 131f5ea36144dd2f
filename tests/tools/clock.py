"""Time that passes when a test says so: a deadline has passed then, however slow the machine is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from leader.runtime import WallClock


class TurnedClock(WallClock):
    """Goes as the machine's does, and is turned on in between."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._waits: dict[asyncio.Timeout, float] = {}  # and when each ends

    def now(self) -> float:
        """See Clock."""
        return super().now() + self._ahead_s

    @asynccontextmanager
    async def until(self, deadline: float | None) -> AsyncIterator[object]:
        """See Clock."""
        async with super().until(deadline) as wait:
            assert isinstance(wait, asyncio.Timeout)
            if deadline is not None:
                self._waits[wait] = deadline
            try:
                yield wait
            finally:
                self._waits.pop(wait, None)

    def turn(self, seconds: float) -> None:
        """So many seconds pass at once."""
        self._ahead_s += seconds
        for wait, deadline in self._waits.items():
            if not wait.expired():
                left_s = max(0.0, deadline - self.now())
                wait.reschedule(asyncio.get_running_loop().time() + left_s)


def skip(seconds: float) -> None:
    """Let so much time pass at once for all that waits on this event loop."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
