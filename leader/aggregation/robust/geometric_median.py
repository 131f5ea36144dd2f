"""The geometric median, RFA (Pillutla, Kakade and Harchaoui 2019, "Robust Aggregation for Federated Learning",
Algorithm 2, https://arxiv.org/abs/1912.13445).

The smoothed Weiszfeld algorithm minimises the sum of distances to the updates. The paper weighs
each update by its examples; here all count the same, because a malicious learner may say any number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.gram import combination, gram
from leader.aggregation.robust.rows import Rows

_SMOOTHING = 1e-6  # nu: no distance counts as less, so that an update at the median itself divides by no zero
_TOLERANCE = 1e-14  # relative decrease of the sum of distances, flat at its minimum, that is but rounding
_MAX_STEPS = 1000  # of n x n products each; a few dozen do as a rule


def geometric_median(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """The point of least summed distance to all updates; 2 `byzantine` < n, whatever `byzantine` is."""
    return combination(rows, weiszfeld(gram(rows)))


def weiszfeld(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n,), in sum 1, with which the updates of these scalar products (n, n) give their median.

    Every iterate is a weighted mean of the updates, sum c_i x_i, so its squared distance to x_k is
    G_kk - 2 (G c)_k + c.G c in their scalar products G: the updates themselves are read only twice.
    """
    weights = np.full(len(products), 1 / len(products))
    before = np.inf
    for _ in range(_MAX_STEPS):
        along = (products * weights).sum(axis=1)
        squared = np.diag(products) - 2 * along + weights @ along
        distances = np.sqrt(np.maximum(squared, _SMOOTHING**2))
        if before - (now := distances.sum()) <= _TOLERANCE * now:
            break
        before = now
        weights = 1 / distances
        weights /= weights.sum()
    return weights
