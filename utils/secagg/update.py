"""What a masked update says: its values as words of a ring, and beside them whole numbers as words of 64 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import leader_pb2
from utils.codecs.base import State
from utils.codecs.blocks import Uniform
from utils.codecs.feedback import add
from utils.secagg.ring import BLOCK, COARSE, RANGES, Ring, Words, check, exact_words
from utils.vector import Vector

VALUES, WIDE = "values", "wide"  # tensors of the file
_FACTS = 3  # words that the wide part begins with: examples, loss, values that saturated
_SCORE = 3  # words of each score: its value, examples, learners that tell it
_RESIDUAL = "masks.residual"  # name of what is fed back, in what a part remembers
_MEAN_BITS = 24  # of a loss or a score, below the point
_MOST_EXAMPLES = 1 << 32  # of one update, where the plan says nothing
_MAX_MEAN = 2.0**10  # times 2^24 times 2^28 examples it is within 63 bits


class Score(NamedTuple):
    """What learners score, on examples that they hold out."""

    mean: float  # over the examples
    examples: int
    learners: int


@dataclass(frozen=True)
class Facts:
    """What a sum, or one update, tells beside its values."""

    examples: int
    loss: float  # mean over the examples
    saturated: int
    counts: NDArray[np.int64]  # see Ring.counts; all 0 with noise, empty but with 16 bits
    scores: Mapping[str, Score]  # that enough have told


def facts_size(bits: int, metrics: int = 0) -> int:
    """Words of the wide part before the buffers', with the sums of so many scores."""
    return _FACTS + RANGES * (bits == COARSE) + _SCORE * metrics


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
    scores: Mapping[str, Score] = MappingProxyType({}),
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
    facts = facts_words(plan, examples, loss, saturated, counts, scores)
    return words, np.concatenate([facts, averages]), after


def facts_words(
    plan: leader_pb2.MaskPlan,
    examples: int,
    loss: float,
    saturated: int = 0,
    counts: NDArray[np.int64] | None = None,
    scores: Mapping[str, Score] = MappingProxyType({}),
) -> NDArray[np.uint64]:
    """What one update tells beside its values; a loss that is not finite is none, nor is a score that is not there."""
    facts = np.zeros(facts_size(plan.bits, len(plan.metrics)), np.int64)
    facts[:_FACTS] = examples, _total(loss, examples), saturated
    if counts is not None:
        facts[_FACTS : _FACTS + counts.size] = counts
    rows = facts[facts_size(plan.bits) :].reshape(-1, _SCORE)
    for row, name in zip(rows, plan.metrics, strict=True):
        if name in scores:
            score = scores[name]
            row[:] = _total(score.mean, score.examples), score.examples, score.learners
    return facts.view(np.uint64)


def _total(mean: float, examples: int) -> int:
    bounded = min(max(mean, -_MAX_MEAN), _MAX_MEAN) if math.isfinite(mean) else 0.0
    return round(math.ldexp(bounded * examples, _MEAN_BITS))


def facts_of(wide: NDArray[np.uint64], plan: leader_pb2.MaskPlan, updates: int) -> Facts:
    """The facts of the wide part of so many updates; a score that fewer have told than are to be in a sum is none.

    Nobody could check what each said: where they can't have so many examples, they count as many as they can weigh.
    """
    first, end = facts_size(plan.bits), facts_size(plan.bits, len(plan.metrics))
    facts = wide[:end].view(np.int64)
    examples, loss, saturated = facts[:_FACTS].tolist()
    if not updates <= examples <= updates * (plan.weight_bound or _MOST_EXAMPLES):
        examples = updates * (plan.weight_bound or 1)
    sums = zip(plan.metrics, facts[first:].reshape(-1, _SCORE).tolist(), strict=True)
    scores = {
        name: Score(_mean(total, of), of, learners)
        for name, (total, of, learners) in sums
        if of > 0 and learners >= plan.least
    }
    return Facts(examples, _mean(loss, examples), saturated, facts[_FACTS:first], scores)


def _mean(total: int, examples: int) -> float:
    return math.ldexp(total, -_MEAN_BITS) / examples if examples else math.nan
