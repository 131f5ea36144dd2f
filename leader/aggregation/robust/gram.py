"""Scalar products of all pairs of updates: all that the rules on distances need, in one pass over the disk."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.rows import Rows

#: Updates multiplied at once, and the most multiplications in one product. OpenBLAS computes larger
#: products with several threads that spin for one another: with learners on the same machine that
#: takes ten times as long and more, and the bits would depend on the number of threads.
_ROWS, _BRICK = 64, 1 << 18


def gram(rows: Rows) -> NDArray[np.float64]:
    """(n, n) scalar products, summed up tile by tile; products of float32 are exact in float64."""
    products = np.zeros((rows.n, rows.n), np.float64)
    count = max(1, math.ceil(rows.n / _ROWS))
    bounds = [rows.n * piece // count for piece in range(count + 1)]
    pieces = [slice(start, stop) for start, stop in pairwise(bounds)]
    for _, block in rows.tiles():
        wide = block.astype(np.float64)
        for i, upper in enumerate(pieces):
            for lower in pieces[i:]:
                products[upper, lower] += _product(wide[upper], wide[lower])
    return np.triu(products) + np.triu(products, 1).T


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a @ b.T, a brick after the other."""
    total = np.zeros((len(a), len(b)), np.float64)
    step = max(1, _BRICK // max(1, total.size))
    for first in range(0, a.shape[1], step):
        total += a[:, first : first + step] @ b[:, first : first + step].T
    return total


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
