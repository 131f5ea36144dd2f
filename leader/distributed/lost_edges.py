"""Edges that lost their stream a moment ago, and so are to come again."""

from __future__ import annotations

import asyncio

from leader.condition import Signal

AGAIN_S = 3.0  # in which one comes again


class LostEdges:
    """Whom to wait for at a run's end, by name, each for a while."""

    def __init__(self) -> None:
        self._away: list[tuple[str, float]] = []  # names, and until when by the loop's clock
        self._moved = Signal()

    def lost(self, name: str) -> None:
        """An edge has lost its stream."""
        self._away = [*self._missing(), (name, asyncio.get_running_loop().time() + AGAIN_S)]

    def came_again(self, name: str) -> None:
        """An edge has a stream; where it is one of these, it is no more."""
        if missed := next((one for one in self._away if one[0] == name), None):
            self._away.remove(missed)
            self._moved.notify()

    async def none_left(self) -> None:
        """Return when all have come again, or have had their time."""
        last = max((until for _, until in self._missing()), default=0.0)
        left_s = last - asyncio.get_running_loop().time()
        await self._moved.wait_until(lambda: not self._missing(), left_s)

    def _missing(self) -> list[tuple[str, float]]:
        now = asyncio.get_running_loop().time()
        return [one for one in self._away if one[1] > now]
