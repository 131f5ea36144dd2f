from __future__ import annotations

import sys
from typing import Any

import pytest

from leader.data.part import Part
from tests.leader.training.office import Office


def parts_of(*numbers: int) -> tuple[str, ...]:
    return tuple(Part.shard_id(number) for number in numbers)


def test_without_a_cohort_size_everybody_takes_part() -> None:
    opening = Office(cohort={"quorum": 0.6}).open(round_=3)
    plan = opening.plan
    assert (plan.round, plan.steps, plan.parts, plan.target) == (3, 1, parts_of(0, 1, 2, 3), 4)
    assert (plan.quorum, plan.deadline_s, opening.learners) == (3, 100.0, 4)  # 0.6 x 4 = 2.4


def test_a_drawn_cohort_is_the_same_whenever_it_is_drawn_and_changes_with_the_round() -> None:
    values: dict[str, Any] = {"cohort": {"size": 2, "over_selection": 1.5}}
    drawn = [Office(**values).open(round_).plan for round_ in range(1, 9)]
    assert [Office(**values).open(round_).plan for round_ in range(1, 9)] == drawn
    assert {(len(plan.parts), plan.target, plan.quorum) for plan in drawn} == {(3, 2, 2)}
    assert len({plan.parts for plan in drawn}) > 1


def test_the_learners_of_a_round_are_those_with_work_in_it() -> None:
    opening = Office(learners=2, data={"shards": 4}, cohort={"size": 1}).open()
    assert opening.learners == 1
    assert len(opening.parts) == 1


def test_the_deadline_is_that_of_the_slowest_of_the_cohort() -> None:
    office = Office(learners=3, cohort={"deadline_k": 3, "quorum": 0.5})
    for name, seconds in (("learner-0", 2.0), ("learner-1", 7.0)):
        office.engine.deadlines.note(name, seconds)
    assert office.open().plan.deadline_s == 100.0
    office.engine.deadlines.note("learner-2", 4.0)
    assert office.open().plan.deadline_s == 7.0


@pytest.mark.parametrize(("size", "quorum", "needed"), [(3, 1.0, 3), (9, 0.5, 5), (3, 0.0, 1)])
def test_a_buffer_closes_at_its_size_whoever_is_there(size: int, quorum: float, needed: int) -> None:
    plan = Office(buffer={"size": size}, cohort={"quorum": quorum}).open().plan
    assert (plan.target, plan.quorum, plan.steps) == (size, needed, 1)
    assert plan.parts == parts_of(0, 1, 2, 3)


def test_the_sum_of_a_buffer_has_room_for_its_heaviest_updates() -> None:
    values: dict[str, Any] = {"own": True, "learners": 3, "aggregate": {"max_abs": 1.0}}
    assert Office(**values).open().scale != Office(**values, buffer={"size": 1000}).open().scale


def test_no_update_counts_more_than_the_share_that_the_config_gives_it() -> None:
    values: dict[str, Any] = {"own": True, "aggregate": {"max_share": 0.4}}
    assert Office(**values).open().scale.heaviest == 40  # of 10, 20, 30 and 40: 0.4 of the sum
    assert Office(own=True).open().scale.heaviest == sys.maxsize
    # Whoever is left out of the sum, the heaviest has 0.4 of what the others and it are worth.
    assert Office(**values, cohort={"quorum": 0.7}).open().scale.heaviest == 20
