"""Bulyan over Krum (El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning
in Byzantium", section 4, https://arxiv.org/abs/1802.07927).

Krum chooses theta = n - 2f updates, one after the other, each from those that are left. Of these,
each coordinate is the mean of the beta = theta - 2f values closest to their median.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.gram import gram, squared_distances
from leader.aggregation.robust.krum import scores
from leader.aggregation.robust.rows import Rows
from leader.aggregation.robust.tile import middle, sort_columns


def bulyan(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """Mean of the values around the median of the updates that Krum chooses; n >= 4 `byzantine` + 3."""
    chosen = choose(squared_distances(gram(rows)), byzantine)
    result = np.empty(rows.size, np.float32)
    for start, block in rows.tiles(chosen):
        sort_columns(block)
        result[start : start + block.shape[1]] = _around_median(block, len(chosen) - 2 * byzantine)
    return result


def choose(distances: NDArray[np.float64], byzantine: int) -> list[int]:
    """The n - 2 `byzantine` updates that Krum takes one by one, by squared distances (n, n); ascending.

    With few left, n - f - 2 is below 1; the nearest neighbour still counts then.
    """
    left = np.arange(len(distances))
    for _ in range(len(distances) - 2 * byzantine):
        best = np.argmin(scores(distances[np.ix_(left, left)], byzantine))
        left = np.delete(left, best)
    return sorted(set(range(len(distances))) - set(left.tolist()))


def _around_median(ordered: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Mean (width,) of the `count` values closest to the median in each sorted column of (rows, width).

    They are neighbours in the order: from the lowest, they move up for as long as the value above
    them is closer than the lowest of them; of two that are equally close the lower one is taken.
    """
    centre = middle(ordered)
    first = np.zeros((1, centre.size), np.int64)
    for lowest, above in zip(ordered, ordered[count:], strict=False):
        first += centre - lowest > above - centre
    total = np.zeros(centre.size, np.float64)
    for place in range(count):
        total += np.take_along_axis(ordered, first + place, axis=0)[0]
    return total / count
