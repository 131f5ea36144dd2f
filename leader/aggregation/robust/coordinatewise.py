"""The coordinate-wise median and trimmed mean.

Yin et al. 2018, "Byzantine-Robust Distributed Learning", Definitions 1 and 2:
https://arxiv.org/abs/1803.01498
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.robust.rows import Rows
from leader.aggregation.robust.tile import middle, sort_columns


def median(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """Median of each coordinate; within the honest values wherever 2 `byzantine` < n, whatever `byzantine` is."""
    result = np.empty(rows.size, np.float32)
    for start, block in rows.tiles():
        sort_columns(block)
        result[start : start + block.shape[1]] = middle(block)
    return result


def trimmed_mean(rows: Rows, byzantine: int) -> NDArray[np.float32]:
    """Mean of each coordinate without its `byzantine` smallest and its `byzantine` largest values; n > 2 of those."""
    result = np.empty(rows.size, np.float32)
    for start, block in rows.tiles():
        sort_columns(block)
        kept = block[byzantine : rows.n - byzantine]
        # Row by row, as numpy's mean adds in another order where a tile is one column wide.
        total = np.zeros(block.shape[1])
        for row in kept:
            total += row
        result[start : start + block.shape[1]] = total / len(kept)
    return result
