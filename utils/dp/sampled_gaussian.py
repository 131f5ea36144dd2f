"""What Gaussian noise promises of one example, where each is in a step by chance (Poisson sampling, DP-SGD).

Renyi divergences by order add up over steps (Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530,
section 3); epsilon of their sum by Canonne, Kamath and Steinke 2020, proposition 12 (https://arxiv.org/abs/2004.00010).
An upper bound that needs numpy alone.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORDERS: NDArray[np.float64] = np.array(
    [*(1 + n / 10 for n in range(1, 100)), *range(11, 64), 128, 256, 512, 1024]
)
_TAIL = 12.0  # standard deviations that are integrated over, beyond the last mode
LEAST, MOST = 0.05, 1e4  # noise multipliers that are looked at

Divergences = NDArray[np.float64]  # (orders,)


@lru_cache(maxsize=64)
def divergences_of(rate: float, multiplier: float) -> Divergences:
    """Of one step in which each example is with probability `rate`, under noise of `multiplier` times the clip."""
    if rate >= 1:
        return ORDERS / (2 * multiplier**2)
    return np.array([_divergence(rate, multiplier, float(order)) for order in ORDERS])


def _divergence(rate: float, sigma: float, order: float) -> float:
    """log E[((1 - q) + q exp((2 x - 1) / (2 sigma^2)))^order] / (order - 1) for x of N(0, sigma^2), by trapezoids.

    The integrand is analytic within pi sigma^2 of the axis, so that the error falls exponentially with the step.
    """
    step = min(sigma / 8, sigma**2 / 2)
    x = np.arange(-_TAIL * sigma, order + _TAIL * sigma, step)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    exponent = order * ratio - x**2 / (2 * sigma**2)
    top = float(exponent.max())
    area = math.log(float(np.exp(exponent - top).sum()) * step / (sigma * math.sqrt(2 * math.pi)))
    return max(0.0, (area + top) / (order - 1))


def epsilon_of(divergences: Divergences, delta: float) -> float:
    """Epsilon of what has these divergences altogether, at `delta`.

    >>> round(epsilon_of(1000 * divergences_of(0.01, 1.0), 1e-5), 4)
    2.1014
    """
    if not divergences.any():
        return 0.0
    bounds = divergences + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(bounds.min()))


@lru_cache(maxsize=64)
def least_noise(rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Least noise multiplier, within 0.1 %, with which so many steps are (epsilon, delta)-private.

    >>> round(least_noise(0.01, 1000, 8.0, 1e-5), 2)
    0.62
    """
    low, high = LEAST, MOST
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if epsilon_of(steps * divergences_of(rate, middle), delta) > epsilon:
            low = middle
        else:
            high = middle
    return high
