"""A byte budget: bounds what is held in memory, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """At most `total` bytes are held at once; one request larger than that is let in alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def fits(self, size: int) -> bool:
        """Whether a request for `size` bytes would be let in at once."""
        return not self._queue and (self._held == 0 or self._held + size <= self._total)

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for budget."""
        return bool(self._queue)

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for `size` bytes of budget and hold them inside the `async with` block."""
        await self._take(size)
        try:
            yield
        finally:
            self._held -= size
            self._admit()

    async def _take(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._held -= size
            elif (size, turn) in self._queue:  # unless it was passed over already
                self._queue.remove((size, turn))
            self._admit()
            raise

    def _admit(self) -> None:
        while self._queue:
            size, turn = self._queue[0]
            if self._held and self._held + size > self._total:
                return
            self._queue.popleft()
            if not turn.cancelled():
                self._held += size
                turn.set_result(None)
