"""The flat vector, and memory for it that is used again: fresh pages for a model cost as much as to receive it."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # flat: (P,) parameters, or (total,) with the float buffers behind them

_LARGEST = 1 << 30  # bytes of an array that is kept


def fresh(size: int) -> NDArray[np.uint8]:
    """An array (size,) of any content, in memory of its own."""
    return np.empty(size, np.uint8)


class Recycled:
    """Hands out byte arrays; one that nobody holds any more, nor a view of it, is handed out again.

    At most `kept` are held here beside those in use.
    """

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._owners: list[NDArray[np.uint8]] = []  # newest last

    def empty(self, size: int) -> NDArray[np.uint8]:
        """An array (size,) of any content."""
        for place in range(len(self._owners)):
            # Each view, and what shares its memory such as a tensor, holds its owner: without any there are
            # two references, that of the list and that of the call.
            if self._owners[place].size == size and sys.getrefcount(self._owners[place]) <= 2:
                self._owners.append(self._owners.pop(place))
                return self._owners[-1][:]
        owner = fresh(size)
        if size <= _LARGEST:
            self._owners = [*self._owners, owner][-self._kept :]
        return owner[:]
