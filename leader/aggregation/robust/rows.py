"""What a robust rule combines: n equally long updates, read tile by tile because they lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.spool import Tile


class Rows(Protocol):
    """n updates of `size` elements, in an order that does not depend on when they came."""

    @property
    def n(self) -> int:
        """Updates."""

    @property
    def size(self) -> int:
        """Elements of each."""

    def tiles(self, chosen: Sequence[int] | None = None) -> Iterator[Tile]:
        """The chosen updates (all by default) in blocks that cover all elements, first to last.

        A block is the caller's to write to until the next one is asked for. It takes a quarter of
        the memory that there is, so that work on it may take twice as much again, in float64.
        """


class WholeRows:
    """Rows that are in memory, (n, size), as one tile; a rule spoils them."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.n, self.size = rows.shape
        self._rows = rows

    def tiles(self, chosen: Sequence[int] | None = None) -> Iterator[Tile]:
        """See Rows."""
        yield 0, self._rows if chosen is None else self._rows[list(chosen)]


#: n updates and how many of them may be malicious, to one (size,) float32.
Rule = Callable[[Rows, int], NDArray[np.float32]]
