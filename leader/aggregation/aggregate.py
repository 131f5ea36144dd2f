"""One exchange's aggregate: exact sums of parameters and buffers, and the losses that came along."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.exact_sum import ExactSum, Scale
from model.flat import Entry, Layout
from utils.errors import PayloadError
from utils.payload import Manifest, Payload

#: Losses are float32 where they are made; larger ones, infinite and NaN are left out of the mean.
_MAX_LOSS = 2.0**128


@dataclass(frozen=True)
class Contribution:
    """One complete, verified update."""

    part: str  # which piece of the round's work it is
    weight: int  # number of training examples behind it
    payload: Payload
    loss: float  # mean training loss, NaN if not said


@dataclass(frozen=True)
class Result:
    """What an exchange came to."""

    mean: NDArray[np.float32]  # (total,): mean gradient or delta, then mean change of the buffers
    examples: int
    loss: float  # example-weighted mean over the contributions that told theirs
    digest: str  # hex; equal exactly when parts, weights and payloads were equal


class Aggregate:
    """Folds contributions into exact sums: memory is O(model), whatever the number of learners."""

    def __init__(self, layout: Layout, scale: Scale) -> None:
        self._layout = layout
        self._parameters = ExactSum(layout.parameter_count, scale)
        self._buffers = ExactSum(layout.total - layout.parameter_count, scale)
        self._members: dict[str, tuple[int, int]] = {}
        self._losses: dict[str, tuple[int, float]] = {}

    def add(self, contribution: Contribution) -> None:
        """Fold one contribution in, whole or not at all; raises PayloadError, ValueRangeError, LimitError."""
        check_update(self._layout, contribution.payload.manifest)
        pieces = self._pieces(contribution.payload)
        has_buffers = any(target is self._buffers for target, _, _ in pieces)
        for target, values, _ in pieces:
            target.check(values, contribution.weight)
        for target, values, start in pieces:
            target.add(values, contribution.weight, start)
        self._parameters.count(contribution.weight)
        if has_buffers:
            self._buffers.count(contribution.weight)
        self._members[contribution.part] = (contribution.weight, contribution.payload.crc32)
        if abs(contribution.loss) < _MAX_LOSS:
            self._losses[contribution.part] = (contribution.weight, contribution.loss)

    def _pieces(self, payload: Payload) -> list[tuple[ExactSum, NDArray[np.float32], int]]:
        """(sum, values, first element) of the payload; two pieces if it lies as the layout does."""
        tensors = payload.manifest.tensors
        named = {entry.name: entry for entry in self._layout.entries}
        order = tuple(named[tensor.name] for tensor in tensors)
        split = self._layout.parameter_count
        if order == self._layout.entries or order == self._layout.parameters:
            flat = payload.data.view(np.float32)
            pieces = [(self._parameters, flat[:split], 0)]
            return [*pieces, (self._buffers, flat[split:], 0)] if flat.size > split else pieces
        return [
            self._target(entry, payload.data[tensor.start : tensor.stop].view(np.float32))
            for entry, tensor in zip(order, tensors, strict=True)
        ]

    def _target(self, entry: Entry, values: NDArray[np.float32]) -> tuple[ExactSum, NDArray[np.float32], int]:
        split = self._layout.parameter_count
        if entry.start < split or entry.size == 0:  # an empty last parameter starts where the buffers do
            return self._parameters, values, entry.start
        return self._buffers, values, entry.start - split

    def finish(self) -> Result:
        """The mean over everything added."""
        text = repr(sorted(self._members.items()))
        split = self._layout.parameter_count
        mean = np.empty(self._layout.total, np.float32)
        self._parameters.mean(out=mean[:split])
        self._buffers.mean(out=mean[split:])
        return Result(
            mean,
            self._parameters.weight,
            weighted_loss(self._losses),
            hashlib.sha256(text.encode()).hexdigest(),
        )


def weighted_loss(losses: dict[str, tuple[int, float]]) -> float:
    """Example-weighted mean of (examples, loss), summed in order of the keys; NaN if there is none."""
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
        if tensor.dtype != "F32" or tensor.shape != entry.shape:
            raise PayloadError(
                f"update has {tensor.name!r} as {tensor.dtype}{list(tensor.shape)}, expected F32{list(entry.shape)}"
            )
    given = {tensor.name for tensor in manifest.tensors}
    missing = [entry.name for entry in layout.parameters if entry.name not in given]
    absent = [entry.name for entry in layout.buffers if entry.name not in given]
    if missing or (absent and len(absent) < len(layout.buffers)):
        raise PayloadError(
            f"update lacks {(missing or absent)[0]!r}; send all parameters, and all buffers or none"
        )
