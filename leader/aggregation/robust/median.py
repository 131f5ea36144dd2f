"""The coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning", Definition 1).

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
