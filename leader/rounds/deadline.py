"""The learned deadline: how long an exchange may take, from how long its learners took before."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

_HISTORY = 20  # durations kept of each learner
_LEARNERS = 20_000  # learners whose durations are kept


class Deadlines:
    """Median + k x MAD of each learner's past durations; the slowest learner of a cohort decides.

    The median absolute deviation (MAD) is robust against single stragglers (Rousseeuw & Croux
    1993). A learner with no past gets the ceiling; with k = 0 everybody does.
    """

    def __init__(self, *, ceiling_s: float, floor_s: float, k: float) -> None:
        self._ceiling_s = ceiling_s
        self._floor_s = floor_s
        self._k = k
        self._durations: dict[str, deque[float]] = {}

    def note(self, name: str, seconds: float) -> None:
        """The learner called `name` took so long from work order to counted update."""
        if name not in self._durations and len(self._durations) >= _LEARNERS:
            self._durations.pop(next(iter(self._durations)))
        self._durations.setdefault(name, deque(maxlen=_HISTORY)).append(seconds)

    def of(self, names: Iterable[str]) -> float:
        """Seconds that an exchange of these learners may take."""
        if not self._k:
            return self._ceiling_s
        return min(self._ceiling_s, max((self._expected(name) for name in names), default=self._ceiling_s))

    def _expected(self, name: str) -> float:
        past = self._durations.get(name)
        if not past:
            return self._ceiling_s
        median = statistics.median(past)
        deviation = statistics.median(abs(seconds - median) for seconds in past)
        return max(self._floor_s, median + self._k * deviation)
