"""The exact mean of one exchange in slices: updates come piece by piece, or whole."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from leader.aggregation.aggregate import Aggregate, Member, mean_loss
from leader.aggregation.base import Contribution, Result
from leader.aggregation.exact_sum import ExactSum, Scale
from leader.aggregation.weighting import Facts, Weighting
from model.flat import Layout
from utils.codecs.pieces import Piece
from utils.vector import Vector


class Folded(Enum):
    """What became of a piece."""

    ADDED = auto()
    KNOWN = auto()  # the very same is in the sum already
    DIFFERS = auto()  # another piece of this number is: the sum must begin anew to take this one


@dataclass
class _Pieces:
    """What has come of one part's update."""

    facts: Facts
    weight: int
    crcs: dict[int, int] = field(default_factory=dict)  # by piece number


class SlicedAggregate:
    """Folds pieces of updates into one exact sum for each; whole updates go into sums of their own.

    A whole update is added at once or not at all, so `restart`, which drops all that came in pieces, leaves
    it where it is. `pieces` cover the layout's flat vector, none of them parameters and buffers both; the
    weighting must be one without factors, such as ByExamples.
    """

    def __init__(self, layout: Layout, pieces: Sequence[Piece], scale: Scale, weighting: Weighting) -> None:
        self._layout = layout
        self._pieces = pieces
        self._scale = scale
        self._weighting = weighting
        self._whole: Aggregate | None = None
        self._whole_parts: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Forget all that came in pieces."""
        self._sums = [ExactSum(piece.stop - piece.start, self._scale) for piece in self._pieces]
        self._parts: dict[str, _Pieces] = {}

    @property
    def whole(self) -> frozenset[str]:
        """Parts whose update came whole."""
        return frozenset(self._whole_parts)

    @property
    def partial(self) -> frozenset[str]:
        """Parts of whose update some pieces are in, and some are not."""
        return frozenset(part for part in self._parts if not self.complete(part))

    def complete(self, part: str) -> bool:
        """Whether all of the part's update is in."""
        return part in self._whole_parts or len(self._crcs(part)) == len(self._pieces)

    def ready(self, number: int, parts: Collection[str]) -> bool:
        """Whether piece `number` of all these parts is in."""
        return all(part in self._whole_parts or number in self._crcs(part) for part in parts)

    def add(self, contribution: Contribution) -> None:
        """Fold a whole update in; raises PayloadError, ValueRangeError, LimitError.

        If pieces of its part are in, `restart` must come next.
        """
        if self._whole is None:
            self._whole = Aggregate(self._layout, self._scale, self._weighting)
        self._whole.add(contribution)
        self._whole_parts.add(contribution.part)

    def fold(self, contribution: Contribution, number: int, values: Vector) -> Folded:
        """Fold `values`, piece `number` of an update, in; raises ValueRangeError or LimitError.

        The contribution's payload is what came of the piece; its CRC-32 tells whether it came before.
        """
        update = self._parts.get(contribution.part) or self._begun(contribution)
        crc32 = contribution.payload.crc32
        if update.facts.examples != contribution.weight or update.crcs.get(number, crc32) != crc32:
            return Folded.DIFFERS
        if number in update.crcs:
            return Folded.KNOWN
        target = self._sums[number]
        target.check(values, update.weight)
        target.add(values, update.weight)
        target.count(update.weight)
        update.crcs[number] = crc32
        self._parts[contribution.part] = update
        return Folded.ADDED

    def _begun(self, contribution: Contribution) -> _Pieces:
        facts = Facts(contribution.weight, contribution.local_steps, contribution.loss)
        return _Pieces(facts, self._weighting.weight(facts))

    def mean(self, number: int) -> Vector:
        """The weighted mean of piece `number` over all that is in, new memory."""
        piece, total = self._pieces[number], self._sums[number]
        if self._whole is not None:
            total = self._whole.sums(slice(piece.start, piece.stop))
            total.merge(self._sums[number])
        return total.mean()

    def finish(self) -> Result:
        """The mean over everything added; none of it may be partial."""
        return self.result(np.concatenate([self.mean(piece.number) for piece in self._pieces]))

    def result(self, mean: Vector) -> Result:
        """What the exchange came to, given its `mean`, (total,)."""
        assert not self.partial
        members: list[Member] = [*self._whole.members] if self._whole else []
        facts = [*self._whole.facts] if self._whole else []
        for part, update in self._parts.items():
            members.append((part, (update.weight, *(update.crcs[piece.number] for piece in self._pieces))))
            facts.append(update.facts)
        digest = hashlib.sha256(repr(sorted(members)).encode()).hexdigest()
        return Result(mean, sum(one.examples for one in facts), mean_loss(facts), digest)

    def close(self) -> None:
        """Nothing is held outside memory."""

    def _crcs(self, part: str) -> dict[int, int]:
        return self._parts[part].crcs if part in self._parts else {}
