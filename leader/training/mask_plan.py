"""The plan of a masked round: how many learners it is for, how many of them unmask it, and in which ring."""

from __future__ import annotations

import math

from leader.config import RunConfig
from leader.training.planning import Opening
from protos import leader_pb2
from utils.secagg.graph import ALL_TO_ALL
from utils.secagg.roster import fewest_neighbours


def plan_of(config: RunConfig, opening: Opening, attempt: int) -> leader_pb2.MaskPlan:
    """How the updates of a round are masked."""
    secagg, parties = config.secagg, len(opening.parts)
    share = secagg.threshold or 2 / 3
    plan = leader_pb2.MaskPlan(
        bits=secagg.bits,
        parties=parties,
        threshold=min(parties, math.floor(parties * share) + 1),
        least=secagg.least,
        range=config.aggregate.max_abs if secagg.bits == 64 else secagg.range,
        signed=secagg.mode == "signed",
        attempt=attempt,
        fraction_bits=opening.scale.fraction_bits,
        epochs=0 if config.train.local_steps else config.train.local_epochs,
    )
    if config.aggregate.weighting == "examples":
        largest = max(part.examples for part in opening.parts.values())
        plan.weight_bound = 1 << (largest - 1).bit_length()
    if parties > ALL_TO_ALL:
        plan.neighbours, plan.neighbour_threshold = fewest_neighbours(plan)
    return plan
