"""Each rule once more, straight from its paper: one coordinate, one pair at a time, in float64."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
from numpy.typing import NDArray

Updates = NDArray[np.floating]
Mean = NDArray[np.float64]


def median(updates: Updates, f: int) -> Mean:
    """Yin 2018, Definition 1."""
    return np.array([statistics.median(map(float, column)) for column in updates.T])


def trimmed_mean(updates: Updates, f: int) -> Mean:
    """Yin 2018, Definition 2, with beta n = f."""
    return np.array([statistics.fmean(sorted(map(float, c))[f : len(c) - f]) for c in updates.T])


def _best(updates: Updates, f: int) -> list[int]:
    """Indices by ascending Krum score: the sum over i -> j of |V_i - V_j|^2."""
    rows = [list(map(float, row)) for row in updates]
    scored = []
    for i, row in enumerate(rows):
        distances = sorted(math.dist(row, other) ** 2 for j, other in enumerate(rows) if j != i)
        scored.append((sum(distances[: max(1, len(rows) - f - 2)]), i))
    return [i for _, i in sorted(scored)]


def krum(updates: Updates, f: int) -> Mean:
    """Blanchard 2017, section 4."""
    return np.array(updates[_best(updates, f)[0]], np.float64)


def multi_krum(updates: Updates, f: int) -> Mean:
    """Blanchard 2017, section 4, with m = n - f - 2."""
    return np.array(
        [statistics.fmean(map(float, c)) for c in updates[_best(updates, f)[: len(updates) - f - 2]].T]
    )


def bulyan(updates: Updates, f: int) -> Mean:
    """El Mhamdi 2018, section 4; every subset is tried for the values closest to the median."""
    received: list[NDArray[np.floating]] = list(updates)
    selection: list[NDArray[np.floating]] = []
    while len(selection) < len(updates) - 2 * f:
        selection.append(received.pop(_best(np.array(received), f)[0]))
    return np.array([_around_median(sorted(map(float, c)), 2 * f) for c in np.array(selection).T])


def _around_median(values: list[float], left_out: int) -> float:
    centre = statistics.median(values)

    def off(subset: tuple[float, ...]) -> float:
        return math.fsum(abs(value - centre) for value in subset)

    closest = min(itertools.combinations(values, len(values) - left_out), key=off)
    return statistics.fmean(closest)


def geometric_median(updates: Updates, f: int) -> Mean:
    """Pillutla 2019, Algorithm 2 with equal weights, run until nothing moves."""
    wide = updates.astype(np.float64)
    centre = wide.mean(axis=0)
    for _ in range(20_000):
        weights = 1 / np.maximum(1e-6, np.sqrt(((wide - centre) ** 2).sum(axis=1)))
        moved = (weights[:, None] * wide).sum(axis=0) / weights.sum()
        if np.array_equal(moved, centre):
            break
        centre = moved
    return np.asarray(centre)
