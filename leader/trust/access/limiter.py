"""How often each caller may do a thing: the generic cell rate algorithm, in memory that is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable

from leader.trust.identities.callers import _CALLER
from utils.errors import BusyError

_KEPT = 8192  # callers that are remembered; who was silent for longest is forgotten first

_ROUNDING_S = 1e-6


class Limiter:
    """At most `limit` in `period_s` seconds for each key, 0 = any number, and `burst` at once."""

    def __init__(
        self,
        limit: float,
        period_s: float,
        burst: float,
        complaint: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each_s = period_s / limit if limit else 0.0
        self._burst_s = max(burst, 1.0) * self._each_s
        self._complaint = f"more than {limit:g} {complaint}"
        self._clock = clock
        self._due: dict[str, float] = {}  # by key, when all that it did would be done at the even pace

    def wait_s(self, key: str, cost: float = 1.0) -> float:
        """Seconds until this key may do `cost` more; 0 = now."""
        due = self._due.get(key)
        if due is None:
            return 0.0
        wait_s = due + cost * self._each_s - self._burst_s - self._clock()
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def add(self, key: str, cost: float = 1.0) -> None:
        """Count `cost`, whether it was allowed or not."""
        now = self._clock()
        self._due[key] = max(self._due.pop(key, now), now) + cost * self._each_s
        if len(self._due) > _KEPT:
            del self._due[next(iter(self._due))]

    def check(self, key: str, cost: float = 1.0) -> None:
        """Raises BusyError, with the seconds to wait, if `cost` more would be too much; counts nothing."""
        if wait_s := self.wait_s(key, cost):
            raise BusyError(f"{self._complaint}; try again in {wait_s:.1f} s", wait_s)

    def take(self, key: str) -> None:
        """Count one more; raises BusyError, and counts nothing, if that would be too much."""
        self.check(key)
        self.add(key)


class Quota(Limiter):
    """Bytes an hour of each caller, one way. What has begun may end; it counts against what comes after."""

    def __init__(self, limit: int, way: str) -> None:
        super().__init__(limit, 3600.0, limit, f"bytes an hour (limits.{way}_bytes_per_hour)")

    def check(self, key: str, cost: float = 0.0) -> None:
        """Raises BusyError if this caller has had its share; see Caller.place."""
        super().check(key, cost)

    def count(self, size: int) -> None:
        """The call that is being answered has moved `size` bytes."""
        if (caller := _CALLER.get(None)) is not None:
            self.add(caller.place, size)


ANY = Quota(0, "")
