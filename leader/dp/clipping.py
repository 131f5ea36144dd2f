"""Adaptive clipping (Andrew et al. 2021): the clip follows a quantile of the updates' norms, seen through noise."""

from __future__ import annotations

import math

#: Noise of the sum of bits, per expected update (Andrew et al. 2021, section 3), and at least so many times z: then
#: the bit takes no more than a tenth of what a round costs.
_PER_UPDATE, _PER_MULTIPLIER = 1 / 20, 1.6


def bit_sigma(multiplier: float, updates: int) -> float:
    """Standard deviation of the noisy count of updates that were not clipped, of so many expected."""
    return max(_PER_UPDATE * updates, _PER_MULTIPLIER * multiplier)


def next_clip(clip: float, within: float, quantile: float, rate: float) -> float:
    """The clip of the next round, given the noisy share of updates `within` this one.

    It rises while fewer than the quantile are within it: C exp(-rate (share - quantile)).

    >>> round(next_clip(1.0, within=0.0, quantile=0.5, rate=0.2), 3)
    1.105
    """
    return clip * math.exp(-rate * (min(1.0, max(0.0, within)) - quantile))
