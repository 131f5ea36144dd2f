"""What records of one sum are made of and how they add up: float32 values exactly, masked words modulo their size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from leader.aggregation.exact_sum import ExactSum
from leader.config.rules.edges import COORDINATEWISE
from leader.distributed.messages import scale_of
from leader.update_log.grid import BLOCK, MOST_PARTITIONS, Grid
from protos import log_pb2
from utils.errors import PayloadError
from utils.secagg.ring import WORDS

_ANSWER_BYTES = 4 * BLOCK  # a record of a sum is no larger than one of an update
_MOST_BLOCKS = 1 << 24


class Total(Protocol):
    """A block's sum."""

    weight: int

    def add(self, values: NDArray[Any], weight: int, *, factor: float) -> None:
        """Add weight * factor * values; a negative weight takes them out again."""
        ...

    def count(self, weight: int) -> None:
        """What was added has this weight."""
        ...

    def whole(self) -> NDArray[np.generic]:
        """The sum."""
        ...


class WordTotal:
    """A sum of masked words, modulo their size; each update weighs 1."""

    def __init__(self, size: int, dtype: DTypeLike) -> None:
        self._words: NDArray[Any] = np.zeros(size, dtype)
        self.weight = 0

    def add(self, values: NDArray[Any], weight: int, *, factor: float) -> None:
        """See Total."""
        (np.add if weight > 0 else np.subtract)(self._words, values, out=self._words)

    def count(self, weight: int) -> None:
        """See Total."""
        self.weight += weight

    def whole(self) -> NDArray[np.generic]:
        """See Total."""
        return self._words


def grid_of(plan: log_pb2.LogPlan) -> Grid:
    """The grid that a plan tells of; raises PayloadError for one that can't be."""
    is_sound = 0 < plan.parameters <= plan.values <= _MOST_BLOCKS * BLOCK and (
        not plan.bits or plan.bits in WORDS
    )
    if not (is_sound and 0 < plan.partitions <= MOST_PARTITIONS):
        raise PayloadError("a record of a model, or in a log, of an impossible size")
    return Grid(plan.parameters, plan.values, plan.partitions, together=bool(plan.rule), bits=plan.bits)


class Arithmetic:
    """Of the blocks of one plan; those of parameters are of kind 0, the others of kind 1."""

    def __init__(self, plan: log_pb2.LogPlan) -> None:
        """Raises PayloadError for a plan that can't be."""
        self.grid = grid_of(plan)
        self.scale = scale_of(plan.scale)
        if plan.rule and (plan.bits or plan.rule not in COORDINATEWISE):
            raise PayloadError("a record of a rule that no slice of the model has; install the same release")
        self._words = tuple(np.dtype(f"<u{width}") for width in self.grid.widths) if plan.bits else ()
        self._records = self._words or (np.dtype("<f4"), np.dtype("<f4"))
        # The bits of what a rule comes to, which one partition has: to add them to 0 leaves them as they are.
        sums = np.dtype("<i4" if plan.rule else "<i8")
        self.answers: tuple[np.dtype[Any], ...] = self._words or (sums, sums)

    def kind(self, number: int) -> int:
        """Of block `number`."""
        return int(self.grid.blocks[number][0] >= self.grid.parameters)

    def _size(self, number: int) -> int:
        start, stop = self.grid.blocks[number]
        return stop - start

    def block_bytes(self, number: int) -> int:
        """Of an update's block `number`."""
        return self._size(number) * self._records[self.kind(number)].itemsize

    def values(self, block: log_pb2.Block) -> NDArray[Any]:
        """Of an update's block."""
        return np.frombuffer(block.values, self._records[self.kind(block.number)])

    def total(self, number: int) -> Total:
        """An empty sum of block `number`."""
        if self._words:
            return WordTotal(self._size(number), self._words[self.kind(number)])
        return ExactSum(self._size(number), self.scale)

    def pieces(self, number: int) -> Iterator[slice]:
        """Values of what block `number` comes to, as they are answered: one record after the other."""
        size, most = self._size(number), _ANSWER_BYTES // self.answers[self.kind(number)].itemsize
        return (slice(first, min(first + most, size)) for first in range(0, size, most))
