"""One exchange's exact weighted mean: sums of parameters and buffers, and the losses that came along."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Result
from leader.aggregation.exact_sum import ExactSum, Scale
from leader.aggregation.norms import squared_norm
from leader.aggregation.weighting import Facts, Weighting
from model.flat import Entry, Layout
from utils.errors import PayloadError
from utils.wire.payload import Manifest, Payload

#: Losses are float32 where they are made; larger ones, infinite and NaN are left out of the mean.
_MAX_LOSS = 2.0**128

Piece = tuple[ExactSum, NDArray[np.float32], int]  # where to add, the values, the first element
Member = tuple[str, tuple[int | float, ...]]  # part, then weight, CRC-32 of what came, and factor unless 1


class Aggregate:
    """Folds contributions into exact sums: memory is O(model), whatever the number of learners."""

    def __init__(self, layout: Layout, scale: Scale, weighting: Weighting) -> None:
        self._layout = layout
        self._weighting = weighting
        self._parameters = ExactSum(layout.parameter_count, scale)
        self._buffers = ExactSum(layout.total - layout.parameter_count, scale)
        self._members: list[Member] = []
        self._facts: list[Facts] = []

    def add(self, contribution: Contribution) -> None:
        """Fold one contribution in, whole or not at all; raises PayloadError, ValueRangeError, LimitError."""
        check_update(self._layout, contribution.payload.manifest)
        facts = self._facts_of(contribution)
        weight, factor = self._weighting.weight(facts), self._weighting.factor(facts)
        pieces = self._pieces(contribution.payload)
        if contribution.staleness:
            pieces = self._renewed(pieces, contribution.buffers_shift)
        # Buffers are averages that each learner has taken of what it saw, not steps that add up: they
        # count by their weight alone. A factor would leave them somewhere between the old and the mean.
        factors = {self._parameters: factor, self._buffers: 1.0}
        for target, values, _ in pieces:
            target.check(values, weight, factors[target])
        for target, values, start in pieces:
            target.add(values, weight, start, factors[target])
        for target in {target for target, _, _ in pieces} | {self._parameters}:
            target.count(weight)
        counted = (weight, contribution.payload.crc32)
        self._members.append((contribution.part, counted if factor == 1.0 else (*counted, factor)))
        self._facts.append(facts)

    def _facts_of(self, contribution: Contribution) -> Facts:
        needs_norm = self._weighting.needs_norm
        return Facts(
            contribution.weight,
            contribution.local_steps,
            contribution.loss,
            contribution.start_loss,
            contribution.staleness,
            squared_norm(self._layout, contribution.payload) if needs_norm else 0.0,
        )

    def _pieces(self, payload: Payload) -> list[Piece]:
        """The payload's values; if it lies as the layout does, in the pieces that they are held in."""
        tensors = payload.manifest.tensors
        named = {entry.name: entry for entry in self._layout.entries}
        order = tuple(named[tensor.name] for tensor in tensors)
        if order == self._layout.entries or order == self._layout.parameters:
            return [piece for span in payload.spans(np.float32) for piece in self._targets(*span)]
        return [
            self._target(entry, payload.data[tensor.start : tensor.stop].view(np.float32))
            for entry, tensor in zip(order, tensors, strict=True)
        ]

    def _renewed(self, pieces: list[Piece], shift: NDArray[np.float32] | None) -> list[Piece]:
        """A stale update's pieces, with the change of its buffers counted from the newest model.

        As a change from the model that it started from it could take a variance below zero: others have
        changed it since. Without the `shift` between the two models the buffers are left out.
        """
        renewed = []
        for target, values, start in pieces:
            if target is self._parameters:
                renewed.append((target, values, start))
            elif shift is not None:
                with np.errstate(over="ignore", invalid="ignore"):  # refused by the check
                    renewed.append((target, values + shift[start : start + values.size], start))
        return renewed

    def _targets(self, start: int, values: NDArray[np.float32]) -> Iterator[Piece]:
        """A run of the flat vector: its parameters, then its buffers."""
        split = self._layout.parameter_count
        parameters = max(0, min(split - start, values.size))
        if parameters or not values.size:
            yield self._parameters, values[:parameters], start
        if parameters < values.size:
            yield self._buffers, values[parameters:], start + parameters - split

    def _target(self, entry: Entry, values: NDArray[np.float32]) -> Piece:
        split = self._layout.parameter_count
        if entry.start < split or entry.size == 0:  # an empty last parameter starts where the buffers do
            return self._parameters, values, entry.start
        return self._buffers, values, entry.start - split

    def finish(self) -> Result:
        """The mean over everything added."""
        text = repr(sorted(self._members))
        split = self._layout.parameter_count
        mean = np.empty(self._layout.total, np.float32)
        scalar = self._weighting.finish(self._facts) if self._facts else 1.0
        self._parameters.mean(out=mean[:split], scalar=scalar)
        self._buffers.mean(out=mean[split:])
        return Result(
            mean,
            sum(facts.examples for facts in self._facts),
            mean_loss(self._facts),
            hashlib.sha256(text.encode()).hexdigest(),
        )

    @property
    def members(self) -> Sequence[Member]:
        """What has been added."""
        return self._members

    @property
    def facts(self) -> Sequence[Facts]:
        """About what has been added, in the same order."""
        return self._facts

    def sums(self, piece: slice) -> ExactSum:
        """A copy of the sum of some elements, all of them parameters or all of them buffers."""
        split = self._layout.parameter_count
        if piece.start < split:
            return self._parameters.of(piece)
        return self._buffers.of(slice(piece.start - split, piece.stop - split))

    def close(self) -> None:
        """Nothing is held outside memory."""


def mean_loss(facts: Iterable[Facts]) -> float:
    """Example-weighted mean of the losses that are told and are such; NaN if there is none."""
    losses = {
        str(number): (one.examples, one.loss) for number, one in enumerate(facts) if abs(one.loss) < _MAX_LOSS
    }
    return weighted_loss(losses)


def weighted_loss(losses: Mapping[str, tuple[int, float]]) -> float:
    """Example-weighted mean of (examples, loss), summed exactly; NaN if there is none."""
    examples = sum(weight for weight, _ in losses.values())
    return math.fsum(weight * loss for weight, loss in losses.values()) / examples if examples else math.nan


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
