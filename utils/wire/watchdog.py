"""A watchdog: ends a transfer that stands still, with one timer for all its chunks."""

from __future__ import annotations

import asyncio
from types import TracebackType

from utils.errors import StalledError, WireError


class Watchdog:
    """Raises StalledError out of its `async with` block once no progress is made for `stall_s` seconds."""

    def __init__(self, stall_s: float, complaint: str) -> None:
        self._stall_s = stall_s
        self._error: WireError = StalledError(complaint)
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        await self._scope.__aenter__()
        self.progress()
        self._timer = self._loop.call_at(self._moved + self._stall_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._error from None

    def progress(self) -> None:
        """The transfer has moved."""
        self._moved = self._loop.time()

    def end(self, error: WireError) -> None:
        """Raise `error` out of the block, unless that is just being ended."""
        self._timer.cancel()
        if not self._scope.expired():
            self._error = error
            self._scope.reschedule(self._loop.time())

    def _look(self) -> None:
        due = self._moved + self._stall_s
        if self._loop.time() >= due:
            self._scope.reschedule(due)  # which is now: the block is cancelled
        else:
            self._timer = self._loop.call_at(due, self._look)
