"""Krum and Multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", section 4).

The score of an update is the sum of its squared distances to the n - f - 2 updates closest to it.
Krum takes the update of the smallest score, Multi-Krum the mean of the m best. The paper leaves m
open; n - f - 2 is the largest that El Mhamdi, Guerraoui and Rouault (2019, "Fast and Secure
Distributed Learning in High Dimension", https://arxiv.org/abs/1905.04374) prove robust.
https://papers.nips.cc/paper/6617-machine-learning-with-adversaries-byzantine-tolerant-gradient-descent
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.gram import combination, gram, squared_distances
from leader.aggregation.robust.rows import Rows


def krum(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """The update that lies closest to the others; n >= 2 `byzantine` + 3."""
    return _mean_of_best(rows, byzantine, 1)


def multi_krum(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """Mean of the n - `byzantine` - 2 updates of the smallest scores; n >= 2 `byzantine` + 3."""
    return _mean_of_best(rows, byzantine, rows.n - byzantine - 2)


def _mean_of_best(rows: Rows, byzantine: int, count: int) -> NDArray[np.float32]:
    order = np.argsort(scores(squared_distances(gram(rows)), byzantine), kind="stable")
    weights = np.zeros(rows.n, np.float64)
    weights[order[:count]] = 1 / count
    return combination(rows, weights)


def scores(distances: NDArray[np.float64], byzantine: int) -> NDArray[np.float64]:
    """Krum's score (n,) of each update from the squared distances (n, n); at least one neighbour counts."""
    neighbours = max(1, len(distances) - byzantine - 2)
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + neighbours]  # the first is its own, 0
    totals: NDArray[np.float64] = nearest.sum(axis=1)
    return totals
