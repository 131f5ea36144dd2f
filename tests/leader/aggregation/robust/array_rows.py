"""Updates in an array, for the rules to read, and attackers that want to move them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


class ArrayRows:
    """`updates` (n, size), in tiles of `width` columns."""

    def __init__(self, updates: Matrix, width: int = 1 << 30) -> None:
        self.n, self.size = updates.shape
        self._updates = updates
        self._width = width

    def tiles(self, chosen: Sequence[int] | None = None) -> Iterator[tuple[int, Matrix]]:
        """Copies, which a rule may write to; spoilt when the next one is asked for."""
        rows = self._updates if chosen is None else self._updates[list(chosen)]
        for start in range(0, self.size, self._width):
            block = rows[:, start : start + self._width].copy()
            yield start, block
            block.fill(np.nan)


def normal(n: int, size: int, seed: int = 0) -> Matrix:
    """Updates that agree on a direction: mean 1, deviation 1."""
    return np.random.Generator(np.random.PCG64(seed)).normal(1, 1, (n, size)).astype(np.float32)
