"""What holds for every policy."""

from __future__ import annotations

import math
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.config import CohortConfig
from leader.learners.selection.base import Candidate, Policy
from leader.learners.selection.oort import Oort
from leader.learners.selection.policies import ByExamples, PowerOfChoice, RoundRobin, Uniform, make_policy
from leader.state import PartHistory

POLICIES: list[Policy] = [Uniform(), ByExamples(), RoundRobin(), PowerOfChoice(), PowerOfChoice(3), Oort()]

candidates = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 1 << 40), max_size=10)
pasts = st.builds(
    PartHistory,
    times=st.integers(1, 50),
    last_round=st.integers(1, 50),
    loss=st.just(math.nan) | st.floats(-(2.0**127), 2.0**127),
    seconds=st.floats(0, 1e6),
)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@given(
    sizes=candidates,
    size=st.integers(0, 12),
    history=st.dictionaries(st.sampled_from("abcdefghijk"), pasts),
    seed=st.integers(0, 2**63 - 1),
    round_=st.integers(1, 10_000_000),
    random=st.randoms(use_true_random=False),
)
def test_a_cohort_is_so_many_different_parts_in_order_however_parts_and_history_are_listed(
    policy: Policy,
    sizes: dict[str, int],
    size: int,
    history: dict[str, PartHistory],
    seed: int,
    round_: int,
    random: Random,
) -> None:
    listed = [Candidate(part, examples) for part, examples in sorted(sizes.items())]
    cohort = policy.choose(listed, size, history, seed=seed, round_=round_)
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= set(sizes)
    assert len(cohort) == (min(size, len(sizes)) if size else len(sizes))
    random.shuffle(listed)
    keys = list(history)
    random.shuffle(keys)
    shuffled = {key: history[key] for key in keys}
    assert policy.choose(listed, size, shuffled, seed=seed, round_=round_) == cohort


def test_every_word_of_the_config_has_its_policy() -> None:
    words = get_args(CohortConfig.model_fields["policy"].annotation)
    made = {word: make_policy(CohortConfig(policy=word)) for word in words}
    assert made == {
        "uniform": Uniform(),
        "by_examples": ByExamples(),
        "round_robin": RoundRobin(),
        "oort": Oort(),
        "power_of_choice": PowerOfChoice(0),
    }
    chosen = CohortConfig(policy="power_of_choice", size=4, candidates=9)
    assert make_policy(chosen) == PowerOfChoice(9)
