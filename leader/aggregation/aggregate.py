"""One exchange's exact weighted mean: a sum for each piece of the model, of updates that come whole or in pieces."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Elsewhere, Result, Term
from leader.aggregation.exact_sum import ExactSum, Scale, check_range
from leader.aggregation.norms import squared_norm
from leader.aggregation.weighting import Facts, Weighting
from model.layout import Layout
from utils.codecs.pieces import Piece
from utils.errors import PayloadError, ValueRangeError
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload

#: Losses are float32 where they are made; larger ones, infinite and NaN are left out of the mean.
MAX_LOSS = 2.0**128

_Run = tuple[int, int, Vector]  # values, the piece that they are of, and the first one's place in it


class Folded(Enum):
    """What became of a piece."""

    ADDED = auto()
    KNOWN = auto()  # the very same is in the sum already
    DIFFERS = auto()  # another piece of this number is: the sum must begin anew to take this one


@dataclass
class _Update:
    """What has come of one part's update."""

    part: str
    facts: Facts
    weight: int
    factor: float
    elsewhere: Elsewhere | None = None
    crcs: dict[int, int] = field(default_factory=dict)  # by piece number; one for all that came whole

    @property
    def member(self) -> tuple[str, tuple[int | float, ...]]:
        """Part, then weight, CRC-32s of what came, and factor unless 1."""
        factors = () if self.factor == 1.0 else (self.factor,)
        return self.part, (self.weight, *(self.crcs[number] for number in sorted(self.crcs)), *factors)


class Aggregate:
    """Folds contributions into exact sums: memory is O(model), whatever the number of learners.

    `pieces` cover what the layout shares, parameters, then buffers; without, each of these is one. A whole update
    is all of them, added at once or not at all. What comes piece by piece has sums of its own, so that `restart`
    drops it and leaves whole updates where they are; its weighting must be one without factors, such as ByExamples.
    """

    def __init__(
        self, layout: Layout, scale: Scale, weighting: Weighting, pieces: Sequence[Piece] | None = None
    ) -> None:
        self._layout = layout
        self._scale = scale
        self._weighting = weighting
        self._pieces = layout.pieces() if pieces is None else pieces
        self._whole: list[_Update] = []
        self._whole_sums = self._empty_sums()
        self.restart()

    def _empty_sums(self) -> list[ExactSum]:
        return [ExactSum(piece.stop - piece.start, self._scale) for piece in self._pieces]

    def restart(self) -> None:
        """Forget all that came in pieces."""
        self._cut: dict[str, _Update] = {}
        self._cut_sums = self._empty_sums()

    @property
    def whole(self) -> frozenset[str]:
        """Parts whose update came whole."""
        return frozenset(update.part for update in self._whole)

    @property
    def partial(self) -> frozenset[str]:
        """Parts of whose update some pieces are in, and some are not."""
        return frozenset(part for part in self._cut if not self.complete(part))

    def complete(self, part: str) -> bool:
        """Whether all of the part's update is in."""
        return part in self.whole or (part in self._cut and len(self._cut[part].crcs) == len(self._pieces))

    def ready(self, number: int, parts: Collection[str]) -> bool:
        """Whether piece `number` of all these parts is in."""
        cut = {part for part, update in self._cut.items() if number in update.crcs}
        return self.whole.union(cut).issuperset(parts)

    def add(self, contribution: Contribution) -> None:
        """Fold a whole update in, or nothing of it; raises PayloadError, ValueRangeError, LimitError.

        If pieces of its part are in, `restart` must come next.
        """
        update, runs = self._checked(contribution)
        self._sum_up(self._whole_sums, update, runs, update.weight)
        self._add_whole(update, contribution)

    def terms(self, contribution: Contribution) -> list[Term]:
        """What a whole update would add, for whoever does; raises as `add` does."""
        update, runs = self._checked(contribution)
        for number, _, values in runs:
            check_range(values, self._scale.max_abs, self._factor(update, number))
        return [
            Term(self._pieces[number].start + start, values, update.weight, self._factor(update, number))
            for number, start, values in runs
        ]

    def _checked(self, contribution: Contribution) -> tuple[_Update, list[_Run]]:
        check_update(self._layout, contribution.payload.manifest)
        update = self._begun(contribution)
        runs = self._runs(contribution.payload)
        if contribution.staleness:
            runs = self._renewed(runs, contribution.buffers_shift)
        self._check_weight(self._whole_sums, update, runs)
        return update, runs

    @property
    def sum_bytes(self) -> int:
        """See Mergeable."""
        return 8 * self._pieces[-1].stop

    @property
    def parts(self) -> frozenset[str]:
        """See Mergeable."""
        return self.whole

    def hand_over(self) -> tuple[()]:
        """See Countable: a sum stays where it is."""
        return ()

    def withdraw(self, contribution: Contribution) -> None:
        """See Mergeable."""
        (update,) = (update for update in self._whole if update.part == contribution.part)
        self._sum_up(self._whole_sums, update, self._runs(contribution.payload), -update.weight)
        self._whole.remove(update)

    def summed(self) -> tuple[tuple[int, ...], list[NDArray[np.generic]]]:
        """See Mergeable."""
        return tuple(total.weight for total in self._whole_sums), [
            total.whole() for total in self._whole_sums
        ]

    def count(self, contribution: Contribution) -> None:
        """See Mergeable."""
        update = self._begun(contribution)
        for total in self._whole_sums:
            total.check_weight(update.weight)
        self._add_whole(update, contribution)

    def _add_whole(self, update: _Update, contribution: Contribution) -> None:
        update.crcs[0] = contribution.payload.crc32
        self._whole.append(update)

    def merge(self, parts: frozenset[str], weights: tuple[int, ...], data: NDArray[np.uint8]) -> None:
        """See Mergeable."""
        counted = [update for update in self._whole if update.part in parts]
        awaited = tuple(self._weight_of(counted, piece.number) for piece in self._pieces)
        if weights != awaited:
            raise PayloadError(f"a sum of weights {weights}; those of the updates in it come to {awaited}")
        words = data.view(np.uint64)
        for piece, weight in zip(self._pieces, weights, strict=True):
            total = ExactSum.of(words[piece.start : piece.stop], weight, self._scale)
            if self._whole_sums[piece.number].weight:
                self._whole_sums[piece.number].merge(total)
            else:  # to clear a sum and add to it would be two more passes over memory
                self._whole_sums[piece.number] = total

    def _weight_of(self, updates: Iterable[_Update], number: int) -> int:
        """Total weight in piece `number` of updates that an edge has added."""
        return sum(
            update.weight
            for update in updates
            if update.elsewhere and (update.elsewhere.buffers or not self._is_buffers(number))
        )

    def forget(self, parts: frozenset[str]) -> None:
        """See Mergeable."""
        self._whole = [update for update in self._whole if update.part not in parts]

    def fold(self, contribution: Contribution, number: int, values: Vector) -> Folded:
        """Fold `values`, piece `number` of an update, in; raises ValueRangeError or LimitError.

        The contribution's payload is what came of the piece; its CRC-32 tells whether it came before.
        """
        update = self._cut.get(contribution.part) or self._begun(contribution)
        crc32 = contribution.payload.crc32
        if update.facts.examples != contribution.weight or update.crcs.get(number, crc32) != crc32:
            return Folded.DIFFERS
        if number in update.crcs:
            return Folded.KNOWN
        runs = [(number, 0, values)]
        self._check_weight(self._cut_sums, update, runs)
        self._sum_up(self._cut_sums, update, runs, update.weight)
        update.crcs[number] = crc32
        self._cut[update.part] = update
        return Folded.ADDED

    def _begun(self, contribution: Contribution) -> _Update:
        elsewhere, norm = contribution.elsewhere, 0.0
        if elsewhere is not None:
            norm = elsewhere.squared_norm
        elif self._weighting.needs_norm:
            norm = squared_norm(self._layout, contribution.payload)
        facts = Facts(
            contribution.weight,
            contribution.local_steps,
            contribution.loss,
            contribution.start_loss,
            contribution.staleness,
            contribution.updates,
            norm,
        )
        weight = min(self._weighting.weight(facts), self._scale.heaviest)
        # Of no steps are those that bring scores alone, of which no mean is made.
        factor = self._weighting.factor(facts) if facts.local_steps else 1.0
        return _Update(contribution.part, facts, weight, factor, elsewhere)

    def _check_weight(self, sums: Sequence[ExactSum], update: _Update, runs: Sequence[_Run]) -> None:
        for number in {number for number, _, _ in runs}:
            sums[number].check_weight(update.weight)

    def _sum_up(self, sums: Sequence[ExactSum], update: _Update, runs: Sequence[_Run], weight: int) -> None:
        """Add all of the runs, or none; raises ValueRangeError."""
        for done, (number, start, values) in enumerate(runs):
            try:
                sums[number].add(values, weight, start, self._factor(update, number))
            except ValueRangeError:
                for number, start, values in runs[:done]:
                    sums[number].add(values, -weight, start, self._factor(update, number))
                raise
        for number in {number for number, _, _ in runs}:
            sums[number].count(weight)

    def _factor(self, update: _Update, number: int) -> float:
        # Buffers are averages that each learner has taken of what it saw, not steps that add up: they
        # count by their weight alone. A factor would leave them somewhere between the old and the mean.
        return 1.0 if self._is_buffers(number) else update.factor

    def _is_buffers(self, number: int) -> bool:
        return self._pieces[number].start >= self._layout.shared_parameter_count

    def _runs(self, payload: Payload) -> list[_Run]:
        """The payload's values, cut where pieces end; if it lies as the layout does, those that it is held in."""
        shared, tensors = self._layout.shared, payload.manifest.tensors
        if all(tensor.name == entry.name for tensor, entry in zip(tensors, shared, strict=False)):
            return [run for span in payload.spans(np.float32) for run in self._cut_up(*span)]
        ends = accumulate(entry.size for entry in shared)
        starts = {entry.name: end - entry.size for entry, end in zip(shared, ends, strict=True)}
        data = payload.data.view(np.float32)
        return [
            run
            for tensor in tensors
            for run in self._cut_up(starts[tensor.name], data[tensor.start // 4 : tensor.stop // 4])
        ]

    def _cut_up(self, start: int, values: Vector) -> Iterator[_Run]:
        number = bisect_right(self._pieces, start, key=lambda piece: piece.stop)
        while values.size:
            piece = self._pieces[number]
            own = values[: piece.stop - start]
            yield number, start - piece.start, own
            start, values, number = start + own.size, values[own.size :], number + 1

    def _renewed(self, runs: list[_Run], shift: Vector | None) -> list[_Run]:
        """A stale update's values, with the change of its buffers counted from the newest model.

        As a change from the model that it started from it could take a variance below zero: others have
        changed it since. Without the `shift` between the two models the buffers are left out.
        """
        renewed = [run for run in runs if not self._is_buffers(run[0])]
        if shift is None or len(renewed) == len(runs):
            return renewed
        split, local = self._layout.parameter_count, self._layout.local
        buffers = (entry for entry in self._layout.buffers if entry.name not in local)
        shift = np.concatenate([shift[entry.start - split :][: entry.size] for entry in buffers])
        for number, start, values in runs:
            if self._is_buffers(number):
                with np.errstate(over="ignore", invalid="ignore"):  # refused by the check
                    renewed.append((number, start, values + shift[start : start + values.size]))
        return renewed

    def mean(self, number: int, out: Vector | None = None) -> Vector:
        """The weighted mean of piece `number` over all that is in, written to `out` where given."""
        total, cut = self._whole_sums[number], self._cut_sums[number]
        if cut.weight and total.weight:
            both = ExactSum(cut.size, self._scale)
            both.merge(total)
            both.merge(cut)
            total = both
        elif cut.weight:
            total = cut
        facts = self._facts
        is_scaled = facts and not self._is_buffers(number)
        return total.mean(out, self._weighting.finish(facts) if is_scaled else 1.0)

    def finish(self) -> Result:
        """The mean over everything added; none of it may be partial."""
        mean = np.empty(self._pieces[-1].stop, np.float32)
        for piece in self._pieces:
            self.mean(piece.number, mean[piece.start : piece.stop])
        return self.result(mean)

    def result(self, mean: Vector) -> Result:
        """What the exchange came to, given its `mean`."""
        assert not self.partial
        members = sorted(update.member for update in self._updates)
        told = [(facts.examples, facts.loss) for facts in self._facts]
        return Result(mean, sum(examples for examples, _ in told), mean_loss(told), digest_of(members))

    @property
    def _updates(self) -> list[_Update]:
        return [*self._whole, *self._cut.values()]

    @property
    def _facts(self) -> list[Facts]:
        return [update.facts for update in self._updates]

    def close(self) -> None:
        """Let go of the sums' memory."""
        self._whole_sums, self._cut_sums = self._empty_sums(), self._empty_sums()


def mean_loss(told: Iterable[tuple[int, float]]) -> float:
    """Example-weighted mean of (examples, loss) over the losses that are such, summed exactly; NaN if there is none."""
    losses = [(examples, loss) for examples, loss in told if abs(loss) < MAX_LOSS]
    examples = sum(examples for examples, _ in losses)
    return math.fsum(weight * loss for weight, loss in losses) / examples if examples else math.nan


def digest_of(members: Sequence[object]) -> str:
    """SHA-256 in hex over what was counted, sorted."""
    return hashlib.sha256(repr(members).encode()).hexdigest()


def check_update(layout: Layout, manifest: Manifest) -> None:
    """Raise PayloadError unless the payload has every parameter (and all or none of the buffers).

    Each must be float32 with the model's shape.
    """
    expected = {entry.name: entry for entry in layout.entries}
    for tensor in manifest.tensors:
        entry = expected.get(tensor.name)
        if entry is None:
            raise PayloadError(f"update has a tensor {tensor.name!r} that the model does not have")
        if tensor.name in layout.local:
            raise PayloadError(
                f"update has {tensor.name!r}, which is to stay at the learner (model.local) or not to be "
                "exchanged in this round (streaming.fragments)"
            )
        if tensor.dtype != "F32" or tensor.shape != entry.shape:
            raise PayloadError(
                f"update has {tensor.name!r} as {tensor.dtype}{list(tensor.shape)}, expected F32{list(entry.shape)}"
            )
    given = {tensor.name for tensor in manifest.tensors}
    awaited = [entry for entry in layout.shared if entry.name not in given]
    buffers = {entry.name for entry in layout.buffers}
    missing = [entry.name for entry in awaited if entry.name not in buffers]
    absent = [entry.name for entry in awaited if entry.name in buffers]
    if missing or (absent and len(absent) < len(buffers - layout.local)):
        raise PayloadError(
            f"update lacks {(missing or absent)[0]!r}; send all parameters, and all buffers or none"
        )
