"""Scalar products of all pairs of updates: all that the rules on distances need, in one pass over the disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.rows import Rows


def gram(rows: Rows) -> NDArray[np.float64]:
    """(n, n) scalar products, summed up tile by tile; products of float32 are exact in float64."""
    products = np.zeros((rows.n, rows.n), np.float64)
    for _, block in rows.tiles():
        wide = block.astype(np.float64)
        products += wide @ wide.T
    return products


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) squared distances |x - y|^2 = x.x + y.y - 2 x.y; rounding never makes them negative."""
    norms = np.diag(products)
    distances = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def combination(rows: Rows, weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Sum of the updates times their `weights` (n,), (size,); those of weight 0 are not read."""
    result = np.empty(rows.size, np.float32)
    chosen = np.flatnonzero(weights).tolist()
    for start, block in rows.tiles(chosen):
        total = np.zeros(block.shape[1], np.float64)
        for row, values in zip(chosen, block, strict=True):
            total += weights[row] * values.astype(np.float64)
        result[start : start + total.size] = total
    return result
