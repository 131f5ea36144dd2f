"""Noise in shares: each learner clips its update and adds a share, so that nobody ever sees a sum without noise.

An update is integers on the lattice of a NoisePlan; modulo the ring of its masks, sums of them with all noise fit.
"""

from __future__ import annotations

import hashlib
import hmac
import math

import numpy as np

from protos import leader_pb2
from utils.dp.discrete_gaussian import DiscreteGaussian
from utils.dp.lattice import MAX_REACH, to_lattice
from utils.errors import PayloadError
from utils.secagg.ring import WORDS, Words
from utils.vector import Vector

_MOST_LEVELS, _MOST_STEP = 4, 64
_BLOCK = 1 << 20  # elements of noise at once


def room_of(bits: int, parties: int) -> int:
    """Largest magnitude of one of `parties` updates whose sum can't wrap modulo 2^bits."""
    return ((1 << bits - 1) - 1) // parties


def noise_of(plan: leader_pb2.NoisePlan) -> DiscreteGaussian:
    """What each update brings."""
    return DiscreteGaussian(tuple(plan.spread))


def multiplier_of(plan: leader_pb2.NoisePlan, shares: int) -> float:
    """What a sum with so many shares of noise is accounted as: noise over the length of an update, its bit included."""
    return noise_of(plan).accounted * math.sqrt(shares) / math.hypot(plan.reach, plan.bit_levels // 2)


def check_noise(plan: leader_pb2.NoisePlan, masks: leader_pb2.MaskPlan) -> None:
    """Raise PayloadError for noise that hides nothing, or that the ring of the masks has no room for."""
    if not (0 < plan.clip < math.inf and 0 < plan.reach <= MAX_REACH):
        raise PayloadError(
            f"updates clipped to {plan.clip:g} on {plan.reach} levels; 1 to {MAX_REACH} can be"
        )
    if len(plan.spread) > _MOST_LEVELS or not all(1 <= step <= _MOST_STEP for step in plan.spread):
        raise PayloadError(f"noise of the levels {list(plan.spread)[:9]}, which is none that can be drawn")
    if plan.bit_levels % 2 or plan.bit_levels // 2 > plan.reach:
        raise PayloadError(f"a bit of {plan.bit_levels} levels beside updates of {plan.reach}")
    if masks.weight_bound:
        raise PayloadError("with noise each update counts once; this plan weighs them")
    if (
        masks.bits not in WORDS
        or not masks.parties
        or plan.reach + noise_of(plan).peak > room_of(masks.bits, masks.parties)
    ):
        raise PayloadError(f"{masks.parties} updates with noise don't fit into {masks.bits} bits")


def clipped_words(values: Vector, plan: leader_pb2.NoisePlan, bits: int) -> Words:
    """(n,) values on the lattice, without noise, and the bit of whether they were within the clip, if it is told.

    Raises ValueRangeError for a value that is not finite.
    """
    update = to_lattice(values, plan.clip, plan.reach)
    words = np.empty(values.size + bool(plan.bit_levels), WORDS[bits])
    signed = words.view(f"i{bits // 8}")
    signed[: values.size] = update.levels
    if plan.bit_levels:
        signed[-1] = plan.bit_levels // 2 * (1 if update.within else -1)
    return words


def add_noise(words: Words, plan: leader_pb2.NoisePlan, key: bytes, work_id: str) -> None:
    """Add the noise of `key` to an update, in place: the same update has the same, another one has other noise."""
    message = b"flockstep dp 1 share " + work_id.encode() + hashlib.sha256(words.data).digest()
    own, noise = hmac.digest(key, message, "sha256"), noise_of(plan)
    signed = words.view(f"i{words.itemsize}")
    for first in range(0, words.size, _BLOCK):
        block = signed[first : first + _BLOCK]
        block += noise.draw(own, block.size, first)


def mean_of(total: Words, plan: leader_pb2.NoisePlan, updates: int) -> tuple[Vector, float]:
    """The mean of a noisy sum, and the noisy share of updates that were within the clip, NaN if that is not told."""
    signed = total.view(f"i{total.itemsize}")
    size = signed.size - bool(plan.bit_levels)
    mean: Vector = (signed[:size] * (plan.clip / plan.reach / updates)).astype(np.float32)
    if not plan.bit_levels:
        return mean, math.nan
    return mean, float(np.float64(signed[-1]) / plan.bit_levels / updates) + 0.5
