"""Where an update's blocks stand in a log of several partitions: by slice of the model, and by group of updates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

BLOCK = 1 << 17  # float32 values of a record: 512 KiB, so that no setting of a broker stands in the way
_RECORD_BYTES = 4 * BLOCK
SMALL = 1 << 18  # values of a model that is not cut into slices
MOST_PARTITIONS = 1024


@dataclass(frozen=True)
class Grid:
    """The blocks of a model, and their places in a log.

    A partition has a slice of the model for a group of the updates. Large models are cut into as many slices as
    there are partitions, so that each has equally much to add, whatever the number of updates, and memory for sums
    is that of one model in all; small ones go by update. A rule must see all updates of a slice in one place.

    >>> Grid(300_000, 300_007, partitions=8).slices, Grid(20_000, 20_000, partitions=8).groups
    (4, 8)
    """

    parameters: int  # values
    values: int  # parameters, then buffers; of masked updates their words, then the wide ones
    partitions: int
    together: bool = False  # whether all updates of a slice are in one partition, whatever the model's size
    bits: int = 0  # of a masked update's words; 0 = it has float32 values

    @property
    def widths(self) -> tuple[int, int]:
        """Bytes of a parameter, and of each of the other values, in an update."""
        return (self.bits // 8, 8) if self.bits else (4, 4)

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """First value of each, and the one after its last; none has parameters and buffers."""
        first, other = (_RECORD_BYTES // width for width in self.widths)
        cuts = {*range(0, self.parameters, first), *range(self.parameters, self.values, other), self.values}
        return tuple(pairwise(sorted(cuts)))

    @property
    def slices(self) -> int:
        """Into how many the model is cut."""
        is_whole = self.values < SMALL and not self.together
        return 1 if is_whole else min(self.partitions, len(self.blocks))

    @property
    def groups(self) -> int:
        """Into how many the updates fall."""
        return 1 if self.together else self.partitions // self.slices

    def places(self, uid: bytes) -> range:
        """The partitions that an update's blocks stand in."""
        first = int.from_bytes(uid[:4], "big") % self.groups * self.slices
        return range(first, first + self.slices)

    def numbers(self, partition: int) -> range:
        """Blocks of the partition's slice."""
        one, blocks, slices = partition % self.slices, len(self.blocks), self.slices
        return range(-(-one * blocks // slices), -(-(one + 1) * blocks // slices))
