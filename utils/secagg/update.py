"""What a masked update says: its values as words of a ring, and beside them whole numbers as words of 64 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos import leader_pb2
from utils.secagg.ring import Ring, Words, exact_words
from utils.vector import Vector

VALUES, WIDE = "values", "wide"  # tensors of the file
FACTS = 3  # words of the wide part before the buffers': examples, loss, values that saturated
_LOSS_BITS = 24  # of a loss, below the point
_MAX_LOSS = 2.0**10  # times 2^24 times 2^28 examples it is within 63 bits


@dataclass(frozen=True)
class Facts:
    """What a sum, or one update, tells beside its values."""

    examples: int
    loss: float  # mean over the examples
    saturated: int


def ring_of(plan: leader_pb2.MaskPlan) -> Ring:
    """The ring of a plan with fewer than 64 bits."""
    return Ring(plan.bits, plan.parties, plan.range)


def words_of(
    plan: leader_pb2.MaskPlan, values: Vector, parameters: int, examples: int, loss: float
) -> tuple[Words, NDArray[np.uint64]]:
    """An update, (n,): of its first `parameters` the words, and the wide part with facts and buffers.

    Raises ValueRangeError for values that are not finite, or beyond the plan's range where they can't saturate.
    """
    own, buffers = values[:parameters], values[parameters:]
    weight = examples if plan.weight_bound else 1
    saturated = 0
    if plan.bits == 64:
        words: Words = exact_words(own, weight, plan.fraction_bits, plan.range)
    else:
        share = weight / (plan.weight_bound or 1)
        words, saturated = ring_of(plan).levels(own, share)
    averages = exact_words(buffers, weight, plan.fraction_bits, np.inf)
    return words, np.concatenate([facts_words(examples, loss, saturated), averages])


def facts_words(examples: int, loss: float, saturated: int = 0) -> NDArray[np.uint64]:
    """What one update tells beside its values; a loss that is not finite is none."""
    bounded = min(max(loss, -_MAX_LOSS), _MAX_LOSS) if math.isfinite(loss) else 0.0
    facts = np.array([examples, round(bounded * examples * 2**_LOSS_BITS), saturated], np.int64)
    return facts.view(np.uint64)


def facts_of(wide: NDArray[np.uint64]) -> Facts:
    """The facts of a summed wide part."""
    examples, loss, saturated = (int(word) for word in wide[:FACTS].view(np.int64))
    return Facts(examples, loss / 2**_LOSS_BITS / examples if examples else math.nan, saturated)
