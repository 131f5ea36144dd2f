"""What each part has spent of its budget, by the releases that its updates were in."""

from __future__ import annotations

import math
from collections.abc import Iterable

from utils.dp.gaussian import epsilon_of, mu_of


class Accountant:
    """Adds up releases for each part: mu^2 is the sum of 1 / z^2, whatever their order and their noise.

    Nothing is gained by being drawn seldom: who was in a round pays it in full. Units are those of zero-out
    adjacency: a part's update is there, or it is zero.
    """

    def __init__(self, epsilon: float, delta: float) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self._most = mu_of(epsilon, delta) ** 2
        self._spent: dict[str, float] = {}  # mu^2, by part

    @property
    def parts(self) -> frozenset[str]:
        """Those that were in a release."""
        return frozenset(self._spent)

    def charge(self, parts: Iterable[str], multiplier: float) -> None:
        """A release with noise of `multiplier` times the clip has been charged to these parts."""
        for part in parts:
            self._spent[part] = self._with(part, multiplier)

    def can_pay(self, part: str, multiplier: float) -> bool:
        """Whether one more release leaves the part within its budget."""
        return self._with(part, multiplier) <= self._most

    def spent(self, part: str) -> float:
        """Epsilon of a part so far."""
        return epsilon_of(math.sqrt(self._spent.get(part, 0.0)), self.delta)

    def spent_after(self, part: str, multiplier: float) -> float:
        """Epsilon of a part with one more release."""
        return epsilon_of(math.sqrt(self._with(part, multiplier)), self.delta)

    @property
    def spent_max(self) -> float:
        """Epsilon of the part that has spent most; 0 before the first release."""
        return epsilon_of(math.sqrt(max(self._spent.values(), default=0.0)), self.delta)

    def releases_left(self, multiplier: float) -> int:
        """How many more releases every part can pay."""
        left = self._most - max(self._spent.values(), default=0.0)
        return max(0, math.floor(left * multiplier**2 * (1 + 1e-12)))

    def _with(self, part: str, multiplier: float) -> float:
        return self._spent.get(part, 0.0) + multiplier**-2
