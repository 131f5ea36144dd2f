"""The plan of a masked round: how many learners it is for, how many of them unmask it, and in which ring."""

from __future__ import annotations

import math
from collections.abc import Iterable

from leader.config import RunConfig
from leader.data.part import Part
from leader.training.planning import Opening
from protos import leader_pb2
from utils.secagg.graph import ALL_TO_ALL
from utils.secagg.roster import fewest_neighbours

_MOST_STEPS = 20  # powers of two that a range may go from the config's


def plan_of(config: RunConfig, opening: Opening, attempt: int, masks_range: float) -> leader_pb2.MaskPlan:
    """How the updates of a round are masked; `masks_range` is the state's."""
    secagg, parties = config.secagg, len(opening.parts)
    share = secagg.threshold or 2 / 3
    plan = leader_pb2.MaskPlan(
        bits=secagg.bits,
        parties=parties,
        threshold=min(parties, math.floor(parties * share) + 1),
        least=secagg.least,
        range=_range(config, masks_range),
        signed=secagg.mode == "signed",
        attempt=attempt,
        fraction_bits=opening.scale.fraction_bits,
        epochs=0 if config.train.local_steps else config.train.local_epochs,
        metrics=config.summed_scores,
        weight_bound=weight_bound(config, opening.parts.values()),
    )
    if parties > ALL_TO_ALL:
        plan.neighbours, plan.neighbour_threshold = fewest_neighbours(plan)
    return plan


def weight_bound(config: RunConfig, parts: Iterable[Part]) -> int:
    """Most that an update of one of these parts weighs; 0 where each counts once."""
    if config.aggregate.weighting != "examples":
        return 0
    largest = max((part.examples for part in parts), default=1)
    return 1 << (largest - 1).bit_length()


def _range(config: RunConfig, found: float) -> float:
    """Largest magnitude of a value: with 16 bits, what was `found` by the round before."""
    secagg = config.secagg
    if secagg.bits == 64:
        return config.aggregate.max_abs
    low, high = (math.ldexp(secagg.range, by) for by in (-_MOST_STEPS, _MOST_STEPS))
    return min(max(found, low), high) if found else secagg.range
