"""Places in what is bounded, bytes or streams: who gets one, and who loses one to others that wait.

Whoever asks while there is room gets in at once, and nothing more happens. Else there is a line, and as long as
there is one, holders that hardly move may keep half of everything; beyond that they lose their places to it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from utils.errors import BusyError
from utils.wire.watchdog import Watchdog

_GRACE_S = 1.0  # that a holder may take to move at all
_AHEAD_S = (
    5.0  # for which one with a claim may rest after a large message: on slow links they are far between
)
_REVIEW_S = 0.25
_RETRY_S = 1.0
_SHUNNED_S = 10.0  # for which whoever lost a place comes after others
_REMEMBERED = 4096  # callers that lost one
_LEAST_BYTES = 16 << 10  # that are progress; a dribble of less is none


@dataclass(eq=False)
class Place:
    """What one caller holds until `free` is called; it can be taken from it while it is `moving`, or left."""

    places: Places
    caller: str
    size: int
    ranked: bool
    bytes: int = 0  # that have moved
    _since: float = 0.0
    _until: float = 0.0  # when it is slow if nothing moves until then
    _heard: int = 0  # bytes at which the watchdog last heard of progress
    _watchdog: Watchdog | None = field(default=None, repr=False)
    drop: Callable[[], None] | None = None  # of a place that was left: called when somebody gets it

    @asynccontextmanager
    async def moving(self, stall_s: float, complaint: str) -> AsyncIterator[None]:
        """Bytes are to move inside the block, as `moved` tells.

        Raises StalledError with the complaint after `stall_s` seconds without progress, BusyError if the place went
        to others.
        """
        self._since = self.places.clock()
        self._until, self.bytes, self._heard = self._since + _GRACE_S, 0, 0
        async with Watchdog(stall_s, complaint) as self._watchdog:
            try:
                yield
            finally:
                self._watchdog = None

    def moved(self, count: int) -> None:
        """`count` bytes have come, or gone."""
        now = self.places.clock()
        self.bytes += count
        ahead_s = _AHEAD_S if self.ranked else _GRACE_S
        self._until = min(max(self._until, now) + count / self.places.slow_bytes_per_s, now + ahead_s)
        if self._watchdog is not None and self.bytes - self._heard >= _LEAST_BYTES:
            self._heard = self.bytes
            self._watchdog.progress()

    def slow(self, now: float) -> bool:
        """Whether it moves too little to be kept if others wait."""
        return self._watchdog is not None and now > self._until

    def rate(self, now: float) -> float:
        """Bytes a second since it began to move."""
        return self.bytes / max(now - self._since, _GRACE_S)

    def lose(self) -> None:
        """End what it is held for: others wait."""
        assert self._watchdog is not None
        self._watchdog.end(
            BusyError(
                "others waited for the place of this transfer, and it hardly moved (limits.slow_bytes_per_s); "
                "go on with it in a second",
                _RETRY_S,
            )
        )
        self._watchdog = None

    def leave(self, drop: Callable[[], None]) -> None:
        """Its caller is gone and may come back to it, unless somebody gets it first: then `drop` is called."""
        self.drop = drop
        self.places.left(self)

    def resume(self) -> None:
        """Its caller is back."""
        self.drop = None

    def free(self) -> None:
        """Give it back; once is enough."""
        self.places.give_back(self)


class Places:
    """At most `total` is held at once; one request larger than that is let in alone.

    Those with a claim, the `ranked`, come first, each caller with one place; all others together get half. Then comes
    whoever has not just lost a place, then who holds least, then who came first. At most `most_waiting` of the others
    stand in line.
    """

    def __init__(
        self,
        total: int,
        slow_bytes_per_s: float,
        most_waiting: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slow_bytes_per_s = slow_bytes_per_s
        self.clock = clock
        self._total = total
        self._most_waiting = most_waiting
        self._held: dict[Place, None] = {}  # oldest first
        self._line: dict[Place, tuple[int, asyncio.Future[None]]] = {}  # by number
        self._numbers = itertools.count()
        self._of: Counter[str] = Counter()  # held by each caller
        self._ranked: set[str] = set()  # callers that have a ranked place, or wait for it
        self._lost: dict[str, float] = {}  # callers that lost a place, and when; the last one last
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """How much is held."""
        return sum(place.size for place in self._held)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    @asynccontextmanager
    async def hold(self, caller: str, size: int, *, ranked: bool = False) -> AsyncIterator[Place]:
        """Wait for a place, and hold it inside the `async with` block or until it is freed; raises BusyError."""
        place = await self.take(caller, size, ranked=ranked)
        try:
            yield place
        finally:
            place.free()

    async def take(self, caller: str, size: int, *, ranked: bool = False) -> Place:
        """Wait for a place, which is to be freed; raises BusyError if too many wait already."""
        place = Place(self, caller, size, ranked and caller not in self._ranked)
        if place.ranked:
            self._ranked.add(caller)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[place] = next(self._numbers), turn
        self._admit()
        others = sum(not other.ranked for other in self._line)
        if place in self._line and not place.ranked and others > self._most_waiting:
            place.free()
            raise BusyError("too many wait for this already; come again in a second", _RETRY_S)
        try:
            await turn
        except asyncio.CancelledError:
            place.free()
            raise
        return place

    def left(self, place: Place) -> None:
        """See Place.leave."""
        self._ranked.discard(place.caller)
        self._admit()

    def give_back(self, place: Place) -> None:
        """See Place.free."""
        if place in self._held:
            del self._held[place]
            self._lessen(place)
        elif self._line.pop(place, None) is None:
            return
        if place.ranked and place.drop is None:
            self._ranked.discard(place.caller)
        self._admit()

    def _lessen(self, place: Place) -> None:
        """Its caller holds it no more, and is forgotten with its last."""
        self._of[place.caller] -= place.size
        if not self._of[place.caller]:
            del self._of[place.caller]

    # --- the line --------------------------------------------------------------------------

    def _admit(self) -> None:
        while self._line:
            place = min(self._line, key=self._order)
            left = self._left_for(place)
            if not self._fits(place, left):
                break
            while not self._fits(place):
                self._drop(left.pop(0))
            self._held[place] = None
            self._of[place.caller] += place.size
            _, turn = self._line.pop(place)
            if not turn.cancelled():
                turn.set_result(None)
        if self._line and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_REVIEW_S, self._review)

    def _order(self, place: Place) -> tuple[bool, bool, int, int]:
        shunned = self.clock() < self._lost.get(place.caller, -math.inf) + _SHUNNED_S
        return not place.ranked, shunned, self._of[place.caller], self._line[place][0]

    def _fits(self, place: Place, without: Collection[Place] = ()) -> bool:
        held = [other for other in self._held if other not in without]
        if not place.ranked:
            others = [other.size for other in held if not other.ranked]
            if others and sum(others) + place.size > self._total / 2:
                return False
        return not held or sum(other.size for other in held) + place.size <= self._total

    def _left_for(self, place: Place) -> list[Place]:
        """Places that were left and that this one may have, those first that it gets first."""
        left = [
            other
            for other in self._held
            if other.drop and (place.ranked or not other.ranked or other.caller == place.caller)
        ]
        return sorted(left, key=lambda other: (other.caller != place.caller, -self._of[other.caller]))

    def _drop(self, place: Place) -> None:
        del self._held[place]
        self._lessen(place)
        assert place.drop is not None
        place.drop()

    def _review(self) -> None:
        """Let those that wait have the places of some that are slow."""
        self._timer = None
        if not self._line:
            return
        now, first = self.clock(), min(self._line, key=self._order)
        slow = [place for place in self._held if place.slow(now) and (first.ranked or not place.ranked)]
        spared = min(self._total / (2 if first.ranked else 4), max(0, self._total - first.size))
        kept = sum(place.size for place in slow) - spared
        wanted = sum(place.size for place in self._line)
        for place in sorted(slow, key=lambda p: (p.ranked, -self._of[p.caller], p.rate(now))):
            if kept <= 0 or wanted <= 0:
                break
            kept -= place.size
            wanted -= place.size
            self._lost.pop(place.caller, None)
            self._lost[place.caller] = now
            place.lose()
        for caller in list(self._lost)[:-_REMEMBERED]:
            del self._lost[caller]
        self._timer = asyncio.get_running_loop().call_later(_REVIEW_S, self._review)
