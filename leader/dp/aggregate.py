"""The private mean of one exchange: clipped updates as integers, summed, released with noise."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.aggregate import check_update, digest_of
from leader.aggregation.base import Contribution, Result
from leader.dp.noise import Mechanism
from leader.state import PrivacyState
from model.layout import Layout
from utils.dp.lattice import to_lattice
from utils.vector import Vector
from utils.wire.payload import Payload

_BLOCK = 1 << 16  # elements

Sums = NDArray[np.int64]  # (d,) levels; where there is a bit, the sum of bits comes last
#: Charges the sums of these parts, of this digest, and adds noise to them in place; whether they were clipped comes
#: back as the state after.
Release = Callable[[Sums, list[str], str], PrivacyState]


class PrivateAggregate:
    """Each update counts once, and no longer than `clip`; what `finish` gives has been charged and has noise in it."""

    def __init__(self, layout: Layout, mechanism: Mechanism, clip: float, release: Release) -> None:
        self._layout = layout
        self._mechanism = mechanism
        self._clip = clip
        self._release = release
        self._size = layout.shared_parameter_count
        self._sums: Sums = np.zeros(self._size + bool(mechanism.bit), np.int64)
        self._examples: dict[str, int] = {}  # by part

    def add(self, contribution: Contribution) -> None:
        """Clip one contribution and add it; raises PayloadError or ValueRangeError, and then nothing is added."""
        check_update(self._layout, contribution.payload.manifest)
        update = to_lattice(self._values(contribution.payload), self._clip, self._mechanism.value_reach)
        self._sums[: self._size] += update.levels
        if self._mechanism.bit:
            self._sums[-1] += self._mechanism.bit // 2 * (1 if update.within else -1)
        self._examples[contribution.part] = contribution.weight

    def _values(self, payload: Payload) -> Vector:
        """The update in the layout's order."""
        places = {tensor.name: tensor for tensor in payload.manifest.tensors}
        tensors = [places[entry.name] for entry in self._layout.shared]
        parts = [payload.data[tensor.start : tensor.stop].view(np.float32) for tensor in tensors]
        return np.concatenate(parts)

    def finish(self) -> Result:
        """The noisy mean; raises PrivacyError where it can't be paid, CheckpointError where that can't be written.

        Its digest is of what is released alone: one of the updates would let a guess of one be confirmed.
        """
        parts = sorted(self._examples)
        after = self._release(self._sums, parts, self._digest(parts))
        scale = self._clip / self._mechanism.value_reach / len(parts)
        mean = np.empty(self._size, np.float32)
        for first in range(0, self._size, _BLOCK):
            block = mean[first : first + _BLOCK]
            np.multiply(self._sums[first : first + block.size], scale, out=block, casting="same_kind")
        released = digest_of([*parts, hashlib.sha256(self._sums.data).hexdigest()])
        return Result(mean, sum(self._examples.values()), math.nan, released, after)

    def _digest(self, parts: list[str]) -> str:
        """Of what is summed, and how it is to be released."""
        mechanism = self._mechanism
        plan = (mechanism.multiplier, mechanism.noise.multipliers, mechanism.reach, mechanism.bit, self._clip)
        return digest_of([*parts, plan, hashlib.sha256(self._sums.data).hexdigest()])

    def close(self) -> None:
        """Nothing is held outside memory."""
