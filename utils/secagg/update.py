"""What a masked update says: its values as words of a ring, and beside them whole numbers as words of 64 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from protos import leader_pb2
from utils.codecs.base import State
from utils.codecs.blocks import Uniform
from utils.codecs.feedback import add
from utils.secagg.ring import BLOCK, COARSE, RANGES, Ring, Words, check, exact_words
from utils.vector import Vector

VALUES, WIDE = "values", "wide"  # tensors of the file
_FACTS = 3  # words of the wide part before the buffers': examples, loss, values that saturated
_RESIDUAL = "masks.residual"  # name of what is fed back, in what a part remembers
_LOSS_BITS = 24  # of a loss, below the point
_MAX_LOSS = 2.0**10  # times 2^24 times 2^28 examples it is within 63 bits


@dataclass(frozen=True)
class Facts:
    """What a sum, or one update, tells beside its values."""

    examples: int
    loss: float  # mean over the examples
    saturated: int
    counts: NDArray[np.int64]  # see Ring.counts; all 0 with noise, empty but with 16 bits


def facts_size(bits: int) -> int:
    """Words of the wide part before the buffers'."""
    return _FACTS + RANGES * (bits == COARSE)


def ring_of(plan: leader_pb2.MaskPlan) -> Ring:
    """The ring of a plan with fewer than 64 bits."""
    return Ring(plan.bits, plan.parties, plan.range)


def words_of(
    plan: leader_pb2.MaskPlan,
    values: Vector,
    parameters: int,
    examples: int,
    loss: float,
    kept: State = MappingProxyType({}),
    seed: int = 0,
) -> tuple[Words, NDArray[np.uint64], State]:
    """An update, (n,): of its first `parameters` the words, the wide part with facts and buffers, what is to be kept.

    With 16 bits what rounding loses is kept, and added to the next values, as codecs do; `kept` is what there is.
    Raises ValueRangeError for values that are not finite, or beyond the plan's range where they can't saturate.
    """
    own, buffers = values[:parameters], values[parameters:]
    weight = examples if plan.weight_bound else 1
    share = weight / (plan.weight_bound or 1)
    after: State = {}
    saturated, counts = 0, np.empty(0, np.int64)
    if plan.bits == 64:
        words: Words = exact_words(own, weight, plan.fraction_bits, plan.range)
    elif plan.bits == COARSE:
        check(own, np.inf)
        ring, meant = ring_of(plan), add(kept[_RESIDUAL], own) if _RESIDUAL in kept else own
        words, saturated = ring.levels(meant, share, Uniform(seed, BLOCK))
        after, counts = {_RESIDUAL: ring.lost(meant, words, share)}, ring.counts(meant, share)
    else:
        words, saturated = ring_of(plan).levels(own, share)
    averages = exact_words(buffers, weight, plan.fraction_bits, np.inf)
    facts = facts_words(plan.bits, examples, loss, saturated, counts)
    return words, np.concatenate([facts, averages]), after


def facts_words(
    bits: int, examples: int, loss: float, saturated: int = 0, counts: NDArray[np.int64] | None = None
) -> NDArray[np.uint64]:
    """What one update tells beside its values; a loss that is not finite is none."""
    bounded = min(max(loss, -_MAX_LOSS), _MAX_LOSS) if math.isfinite(loss) else 0.0
    facts = np.zeros(facts_size(bits), np.int64)
    facts[:_FACTS] = examples, round(bounded * examples * 2**_LOSS_BITS), saturated
    if counts is not None:
        facts[_FACTS:] = counts
    return facts.view(np.uint64)


def facts_of(wide: NDArray[np.uint64], bits: int) -> Facts:
    """The facts of a summed wide part."""
    facts = wide[: facts_size(bits)].view(np.int64)
    examples, loss, saturated = (int(word) for word in facts[:_FACTS])
    mean = loss / 2**_LOSS_BITS / examples if examples else math.nan
    return Facts(examples, mean, saturated, facts[_FACTS:])
