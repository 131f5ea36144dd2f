"""Virtual time: it stands still until somebody moves it on, and knows when the coordinator waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from leader.condition import Signal


class VirtualClock:
    """The coordinator's clock in a simulation; see leader.clock.Clock."""

    def __init__(self) -> None:
        self.changed = Signal()  # the coordinator has begun to wait
        self._now = 0.0
        self._deadline: float | None = None
        self._wait: asyncio.Timeout | None = None

    def now(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    @property
    def awaited(self) -> bool:
        """Whether the coordinator has done all that it could and waits for the next event."""
        return self._wait is not None

    @property
    def deadline(self) -> float | None:
        """When the coordinator's wait ends by itself; None = never."""
        return self._deadline

    @asynccontextmanager
    async def until(self, deadline: float | None) -> AsyncIterator[None]:
        """See leader.clock.Clock."""
        async with asyncio.timeout(None) as wait:
            self._wait, self._deadline = wait, deadline
            if deadline is not None and deadline <= self._now:
                self._end()
            self.changed.notify()
            try:
                yield
            finally:
                self._wait = None

    def advance(self, to: float) -> None:
        """Let the time be `to`, if it is not later already."""
        self._now = max(self._now, to)

    def stir(self) -> None:
        """Something has come for the coordinator, which waits no more until it begins to anew."""
        self._wait = None

    def expire(self) -> None:
        """Move on to the deadline and end the coordinator's wait."""
        assert self._deadline is not None
        self.advance(self._deadline)
        self._end()

    def _end(self) -> None:
        assert self._wait is not None
        self._wait.reschedule(asyncio.get_running_loop().time())
        self._wait = None
