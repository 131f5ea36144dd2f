"""The exact privacy curve of Gaussian noise (Balle and Wang 2018, theorem 8), for one release or many together.

A release of noise multiplier z adds 1 / z^2 to mu^2; whatever releases there were, epsilon and delta are those of mu.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

_FAR = 30.0  # standard deviations from where the tail is taken from its series
_LARGEST = 1e6  # epsilon and mu beyond it mean nothing any more


def delta_of(epsilon: float, mu: float) -> float:
    """Least delta with which noise of this mu is (epsilon, delta)-private: 0 where there was no release."""
    if mu == 0:
        return 0.0
    spread = epsilon / mu
    near = 0.5 * math.erfc((spread - mu / 2) / math.sqrt(2))
    return max(0.0, near - math.exp(epsilon + _log_tail(spread + mu / 2)))


def _log_tail(x: float) -> float:
    """Logarithm of the share of a normal distribution beyond x >= 0."""
    if x < _FAR:
        return math.log(0.5 * math.erfc(x / math.sqrt(2)))
    series = math.fsum((1.0, -(x**-2), 3 * x**-4, -15 * x**-6))
    return -x * x / 2 - math.log(x * math.sqrt(2 * math.pi)) + math.log(series)


@lru_cache(maxsize=4096)
def epsilon_of(mu: float, delta: float) -> float:
    """Least epsilon with which noise of this mu is (epsilon, delta)-private, never less than the true one.

    >>> round(epsilon_of(1.0, 1e-5), 6)
    4.377178
    """
    if delta_of(0.0, mu) <= delta:
        return 0.0
    return _edge(lambda epsilon: delta_of(epsilon, mu) > delta)[1]


@lru_cache(maxsize=64)
def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu that is (epsilon, delta)-private, never more than the true one."""
    return _edge(lambda mu: delta_of(epsilon, mu) <= delta)[0]


def _edge(before: Callable[[float], bool]) -> tuple[float, float]:
    """Neighbours between which `before`, true from 0 on, turns false."""
    low, high = 0.0, 1.0
    while before(high) and high < _LARGEST:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if before(middle) else (low, middle)
    return low, high


def least_noise(epsilon: float, delta: float, releases: int) -> float:
    """Least noise multiplier, rounded up to six digits, with which so many releases are (epsilon, delta)-private.

    >>> least_noise(8.0, 1e-5, 100)
    6.0023
    """
    value = math.sqrt(releases) / mu_of(epsilon, delta)
    unit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return float(f"{math.ceil(value / unit * (1 + 1e-12)) * unit:.6g}")


def releases_within(epsilon: float, delta: float, noise_multiplier: float) -> int:
    """How many releases of this noise multiplier are (epsilon, delta)-private together.

    >>> releases_within(8.0, 1e-5, 6.0023)
    100
    """
    return math.floor((mu_of(epsilon, delta) * noise_multiplier) ** 2 * (1 - 1e-12))
