"""Bounds that a right answer is beyond with probability 10^-6, for tests that draw from fixed keys."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Z = 4.892  # a normal distribution is farther from its mean with probability 10^-6, both sides together


def chi_square_bounds(freedom: int) -> tuple[float, float]:
    """Where a chi-square of so many degrees of freedom is (Wilson and Hilferty 1931).

    >>> low, high = chi_square_bounds(255)
    >>> round(low), round(high)
    (159, 381)
    """
    part = 2 / (9 * freedom)
    low, high = (freedom * max(0.0, 1 - part + z * math.sqrt(part)) ** 3 for z in (-Z, Z))
    return low, high


def assert_frequencies(seen: NDArray[np.int64], expected: NDArray[np.float64]) -> None:
    """Counts of classes, (n,), are as far from what is expected of them as chance has it: neither more nor less."""
    assert expected.min() >= 5
    assert abs(seen.sum() - expected.sum()) < 1e-6 * seen.sum()
    statistic = float(((seen - expected) ** 2 / expected).sum())
    low, high = chi_square_bounds(expected.size - 1)
    assert low < statistic < high


def assert_unrelated(one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    """Two lists of values, (n,), of which one at least is of independent ones, have no more in common than chance."""
    assert abs(float(np.corrcoef(one, other)[0, 1])) < Z / math.sqrt(one.size)
