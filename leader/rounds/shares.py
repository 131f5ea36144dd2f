"""Shares of a buffer: how much of it may be of one learner, whatever its speed."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable

_SHARE = 4  # times an even share of a buffer, for each learner


class Shares:
    """Of one buffer of `target` updates; `late` are learners that were waited for in vain."""

    def __init__(self, target: int, late: Iterable[int | None]) -> None:
        self.late = set(late)
        self._target = target
        self._by: Counter[int | None] = Counter()  # updates in the buffer, by learner

    def counted(self, learner: int | None) -> None:
        """An update of this learner is in the buffer."""
        self._by[learner] += 1
        self.late.discard(learner)

    def left(self, learners: Iterable[int | None], working: Iterable[int | None]) -> Counter[int | None]:
        """How many more orders each learner may be given; `working` has one for each order that is open."""
        everybody = set(learners)
        awaited = everybody - self.late - {None}
        shares = Counter({one: self._bound(len(awaited) + (one in self.late)) for one in everybody})
        shares.subtract(self._by)
        shares.subtract(working)
        return shares

    def _bound(self, learners: int) -> int:
        """Most updates of each of so many learners; of one alone, or where all are alone in their buffers, any."""
        if learners < 2 or self._target < 2:
            return sys.maxsize
        return min(max(2, math.ceil(_SHARE * self._target / learners)), self._target - 1)
