"""The sum of masked updates: words that mean nothing until the masks of all of them are taken off."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.aggregate import digest_of
from leader.aggregation.base import Contribution, Result
from leader.aggregation.exact_sum import ExactSum, Scale
from leader.secagg.pending import PendingSum
from leader.secagg.unmasking import Seeds
from leader.state import PrivacyState
from model.layout import Layout
from protos import leader_pb2
from utils.dp.shares import mean_of
from utils.errors import CheckpointError, PayloadError
from utils.secagg.masks import add_streams
from utils.secagg.ring import COARSE, WORDS, Words
from utils.secagg.update import VALUES, WIDE, Facts, facts_of, facts_size, ring_of
from utils.wire.payload import Manifest, Payload

After = Callable[[float], PrivacyState | None]
_THREADS = 2
_HEADER_BYTES = 1024  # of two tensors without metadata


class MaskedUpdates:
    """Reads masked updates: they are as they come."""

    header_bytes = _HEADER_BYTES

    def __init__(self, layout: Layout, bits: int, *, metrics: int = 0, tells_clipping: bool = False) -> None:
        """With the sums of so many scores beside the values."""
        values, wide = sizes_of(layout, bits, metrics)
        values += tells_clipping
        self.max_bytes = values * bits // 8 + 8 * wide
        self._expected = [(VALUES, f"I{bits}", (values,)), (WIDE, "I64", (wide,))]

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless this can be a masked update of the model."""
        found = [(tensor.name, tensor.dtype, tensor.shape) for tensor in manifest.tensors]
        if found != self._expected:
            raise PayloadError(
                f"a masked update has the tensors {self._expected}, this one {str(found)[:200]}"
            )

    def decode(self, payload: Payload) -> Payload:
        """The update itself."""
        return payload


def sizes_of(layout: Layout, bits: int, metrics: int = 0) -> tuple[int, int]:
    """Words of an update's values and of its wide part."""
    parameters = layout.shared_parameter_count
    return parameters, facts_size(bits, metrics) + sum(entry.size for entry in layout.shared) - parameters


def words_of(
    layout: Layout, plan: leader_pb2.MaskPlan, noise: leader_pb2.NoisePlan | None
) -> tuple[int, int]:
    """As `sizes_of`, of the updates of a plan; those that bring noise have a word more where they tell of clipping."""
    values, wide = sizes_of(layout, plan.bits, len(plan.metrics))
    return values + (noise is not None and noise.bit_levels > 0), wide


class MaskedSum:
    """An aggregator of masked updates, all under one plan; 2, 4 or 8 bytes a value, however many come.

    Where they bring noise, `after` gives the privacy's state after the sum by the noisy share of those within the clip.
    """

    def __init__(
        self,
        layout: Layout,
        plan: leader_pb2.MaskPlan,
        scale: Scale,
        noise: leader_pb2.NoisePlan | None = None,
        after: After = lambda within: None,
    ) -> None:
        values, wide = words_of(layout, plan, noise)
        self.noise = noise
        self._after = after
        self._plan = plan
        self._scale = scale
        self.parts: list[str] = []  # in the order in which they were counted
        self.values: Words = np.zeros(values, WORDS[plan.bits])
        self.wide: NDArray[np.uint64] = np.zeros(wide, np.uint64)

    def add(self, contribution: Contribution) -> None:
        """See Aggregator; nothing of a masked update can be out of range."""
        arrays = contribution.payload.arrays()
        self.values += arrays[VALUES].view(self.values.dtype)
        self.wide += arrays[WIDE].view(np.uint64)
        self.parts.append(contribution.part)

    def clear(self) -> None:
        """Begin anew, with nothing in the sum."""
        self.parts.clear()
        self.values.fill(0)
        self.wide.fill(0)

    @property
    def sum_bytes(self) -> int:
        """See Mergeable."""
        return self.values.nbytes + self.wide.nbytes

    def hand_over(self) -> tuple[()]:
        """See Countable: a sum stays where it is."""
        return ()

    def withdraw(self, contribution: Contribution) -> None:
        """See Mergeable."""
        arrays = contribution.payload.arrays()
        self.values -= arrays[VALUES].view(self.values.dtype)
        self.wide -= arrays[WIDE].view(np.uint64)
        self.parts.remove(contribution.part)

    def summed(self) -> tuple[tuple[int, ...], list[NDArray[np.generic]]]:
        """See Mergeable: each update weighs 1 here, what it counts is in what is masked."""
        return (len(self.parts),), [self.values, self.wide]

    def count(self, contribution: Contribution) -> None:
        """See Mergeable."""
        self.parts.append(contribution.part)

    def merge(self, parts: frozenset[str], weights: tuple[int, ...], data: NDArray[np.uint8]) -> None:
        """See Mergeable."""
        if weights != (len(parts),):
            raise PayloadError(f"a masked sum of weights {weights}; it is over {len(parts)} updates")
        split = self.values.nbytes
        self.values += data[:split].view(self.values.dtype)
        self.wide += data[split:].view(np.uint64)

    def forget(self, parts: frozenset[str]) -> None:
        """See Mergeable."""
        self.parts = [part for part in self.parts if part not in parts]

    @classmethod
    def restored(
        cls, layout: Layout, pending: PendingSum, scale: Scale, after: After = lambda within: None
    ) -> MaskedSum:
        """A sum that was written down, under the plans and the scale of that time; raises CheckpointError."""
        plan, order = pending.closed.plan, leader_pb2.WorkOrder.FromString(pending.closed.order)
        noise = order.noise if order.HasField("noise") else None
        made = cls(layout, plan, replace(scale, fraction_bits=plan.fraction_bits), noise, after)
        if (pending.values.shape, pending.wide.shape) != (made.values.shape, made.wide.shape):
            raise CheckpointError("the pending sum is of another model; start a new run")
        made.parts, made.values, made.wide = list(pending.parts), pending.values, pending.wide
        return made

    def unmask(self, seeds: Seeds) -> None:
        """Take the masks off; of the sum once, and of nothing else ever."""
        add_streams(
            self.values, [s[:32] for s in seeds.plus], [s[:32] for s in seeds.minus], threads=_THREADS
        )
        add_streams(self.wide, [s[32:] for s in seeds.plus], [s[32:] for s in seeds.minus])

    def finish(self) -> Result:
        """See Aggregator; all masks must be off."""
        facts = self._facts
        counted = hashlib.sha256(self.values.data).hexdigest(), hashlib.sha256(self.wide.data).hexdigest()
        digest = digest_of([*sorted(self.parts), *counted])
        if self.noise is not None:
            noisy, within = mean_of(self.values, self.noise, len(self.parts))
            return Result(noisy, facts.examples, math.nan, digest, self._after(within))
        weight = facts.examples if self._plan.weight_bound else len(self.parts)
        if self._plan.bits == 64:
            mean = ExactSum.of(self.values.astype(np.uint64, copy=False), weight, self._scale).mean()
        else:
            mean = ring_of(self._plan).means(self.values, weight / (self._plan.weight_bound or 1))
        begin = facts_size(self._plan.bits, len(self._plan.metrics))
        buffers = ExactSum.of(self.wide[begin:], weight, self._scale).mean()
        shared = np.concatenate([mean, buffers])
        return Result(
            shared, facts.examples, facts.loss, digest, masks_range=self.next_range, scores=facts.scores
        )

    @property
    def saturated(self) -> float:
        """Share of the values that were beyond the range; once unmasked."""
        return self._facts.saturated / max(1, self.values.size * len(self.parts))

    @property
    def next_range(self) -> float:
        """The range for the next round's masks where this one's values decide that, else 0; once unmasked."""
        if self._plan.bits != COARSE or self.noise is not None:
            return 0.0
        facts, values = self._facts, self.values.size * len(self.parts)
        return ring_of(self._plan).next_reach(facts.saturated, facts.counts, values)

    @property
    def _facts(self) -> Facts:
        return facts_of(self.wide, self._plan, len(self.parts))

    def close(self) -> None:
        """Nothing is held outside memory."""
