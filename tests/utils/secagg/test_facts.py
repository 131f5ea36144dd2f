"""What masked updates tell beside their values, as the sum has it."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest

from protos import leader_pb2
from utils.errors import PayloadError
from utils.secagg.roster import check_plan
from utils.secagg.update import Facts, Score, facts_of, facts_words

PLAN = leader_pb2.MaskPlan(
    bits=32, parties=4, threshold=3, least=3, range=8, metrics=["accuracy", "loss", "other"]
)


def summed(*scores: dict[str, tuple[float, int]]) -> Facts:
    words = [
        facts_words(
            PLAN, 10, 2.0, 1, np.empty(0, np.int64), {name: Score(*own, 1) for name, own in told.items()}
        )
        for told in scores
    ]
    return facts_of(reduce(add, words), PLAN, len(words))


def test_a_score_is_its_mean_over_all_examples_if_enough_tell_it() -> None:
    own = [{"accuracy": (0.25, 4), "loss": (-3.0, 4)}, {"accuracy": (0.75, 12)}, {"accuracy": (1.0, 4)}]
    facts = summed(*own, {"unknown": (1.0, 3), "loss": (1.0, 1)})
    assert (facts.examples, facts.loss, facts.saturated) == (40, 2.0, 4)
    assert facts.scores == {"accuracy": Score(0.7, 20, 3)}  # two told a loss


def test_a_score_that_is_large_or_no_number_harms_no_sum() -> None:
    facts = summed(
        *({"loss": (value, 2), "other": (value / 2, 1 << 28)} for value in (1e30, math.nan, -math.inf))
    )
    assert facts.scores["loss"].mean == pytest.approx(1024 / 3)
    assert facts.scores["other"].mean == pytest.approx(1024 / 3)


@pytest.mark.parametrize(("weight_bound", "most"), [(32, 96), (0, 3)])
@pytest.mark.parametrize("lie", [-(10**6), -20, 1 << 62])
def test_nobody_can_say_that_a_sum_is_of_more_examples_than_it_can_be_or_of_none(
    weight_bound: int, most: int, lie: int
) -> None:
    plan = leader_pb2.MaskPlan(weight_bound=weight_bound)
    plan.MergeFrom(PLAN)
    honest = 3 * facts_words(plan, 10, 2.0)
    assert facts_of(honest, plan, 3).examples == 30
    liars = honest - facts_words(plan, 10, 2.0)
    liars[0] = (20 + lie) % (1 << 64)
    facts = facts_of(liars, plan, 3)
    assert (facts.examples, facts.loss) == (most, 40 / most)


@pytest.mark.parametrize(
    "names", [["b", "a"], ["a", "a"], ["a b"], [""], ["a" * 65], [str(n) for n in range(10, 27)]]
)
def test_a_plan_asks_for_few_scores_by_proper_names(names: list[str]) -> None:
    check_plan(PLAN)
    plan = leader_pb2.MaskPlan()
    plan.CopyFrom(PLAN)
    plan.metrics[:] = names
    with pytest.raises(PayloadError, match="score"):
        check_plan(plan)
