from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leader.config import RunConfig
from leader.data.part import Part
from leader.events import EventStream
from leader.learners.workforce import Workforce
from leader.rounds.buffer import Buffer, Desk, Ticket
from leader.rounds.deadline import Deadlines
from leader.rounds.protocol import Accepted, Begin, Dispatch
from leader.rounds.round import Round
from leader.state import RunState
from leader.training.planning import Opening, RoundPlanner
from leader.training.work_orders import WorkPlanner
from protos import leader_pb2

NOTHING = Desk({}, {})


class Office:
    """A planner and its workforce."""

    def __init__(self, *, own: bool = False, learners: int = 4, **values: Any) -> None:
        self.config = RunConfig.model_validate(
            {"learners": learners, "data": {"holder": "learner" if own else "leader"}, **values}
        )
        labels = None if own else np.arange(40) % 10
        events = EventStream()
        self.workforce = Workforce(self.config, classes=10, labels=labels, seats=None, events=events)
        for number in range(learners):
            self.join(f"learner-{number}", own=10 * (number + 1) if own else 0)
        self.workforce.deal()
        self.deadlines = Deadlines(ceiling_s=100.0, floor_s=1.0, k=self.config.cohort.deadline_k)
        work = WorkPlanner(self.config, "run")
        self.planner = RoundPlanner(self.config, self.workforce, work, self.deadlines)

    def join(self, name: str, own: int = 0) -> None:
        info = leader_pb2.LearnerInfo(name=name, control=leader_pb2.CONTROL_SESSION)
        if own:
            info.own_data.CopyFrom(leader_pb2.OwnData(examples=own, classes=10, fingerprint=f"f{own}"))
        self.workforce.register(info, f"ipv4:1.1.1.1:{name}")

    def open(self, round_: int = 1, desk: Desk = NOTHING) -> Opening:
        return self.planner.open(RunState("run", round_ - 1, 0, 5, np.zeros(1, np.float32), {}), desk)


def parts_of(*numbers: int) -> tuple[str, ...]:
    return tuple(Part.shard_id(number) for number in numbers)


def test_without_a_cohort_size_everybody_takes_part() -> None:
    opening = Office(cohort={"quorum": 0.6}).open(round_=3)
    plan = opening.machine.plan
    assert isinstance(opening.machine, Round)
    assert (plan.round, plan.steps, plan.parts, plan.target) == (3, 1, parts_of(0, 1, 2, 3), 4)
    assert (plan.quorum, plan.deadline_s, opening.learners) == (3, 100.0, 4)  # 0.6 x 4 = 2.4


def test_a_drawn_cohort_is_the_same_whenever_it_is_drawn_and_changes_with_the_round() -> None:
    values: dict[str, Any] = {"cohort": {"size": 2, "over_selection": 1.5}}
    drawn = [Office(**values).open(round_).machine.plan for round_ in range(1, 9)]
    assert [Office(**values).open(round_).machine.plan for round_ in range(1, 9)] == drawn
    assert {(len(plan.parts), plan.target, plan.quorum) for plan in drawn} == {(3, 2, 2)}
    assert len({plan.parts for plan in drawn}) > 1


def test_the_learners_of_a_round_are_those_with_work_in_it() -> None:
    opening = Office(learners=2, data={"shards": 4}, cohort={"size": 1}).open()
    assert opening.learners == 1
    assert len(opening.parts) == 1


def test_the_deadline_is_that_of_the_slowest_of_the_cohort() -> None:
    office = Office(learners=3, cohort={"deadline_k": 3, "quorum": 0.5})
    for name, seconds in (("learner-0", 2.0), ("learner-1", 7.0)):
        office.deadlines.note(name, seconds)
    assert office.open().machine.plan.deadline_s == 100.0
    office.deadlines.note("learner-2", 4.0)
    assert office.open().machine.plan.deadline_s == 7.0


@pytest.mark.parametrize(("size", "quorum", "needed"), [(3, 1.0, 3), (9, 0.5, 5), (3, 0.0, 1)])
def test_a_buffer_closes_at_its_size_whoever_is_there(size: int, quorum: float, needed: int) -> None:
    opening = Office(buffer={"size": size}, cohort={"quorum": quorum}).open()
    plan = opening.machine.plan
    assert isinstance(opening.machine, Buffer)
    assert (plan.target, plan.quorum, plan.steps) == (size, needed, 1)
    assert plan.parts == parts_of(0, 1, 2, 3)
    actions = opening.machine.handle(Begin(dict.fromkeys(plan.parts, 1)), 0.0)
    assert len(actions) == 4


def sequence(seed: int, policy: str = "uniform") -> list[str]:
    """Who gets work in a buffer with two at work, where the older work is always done first."""
    office = Office(seed=seed, buffer={"size": 30}, cohort={"size": 2, "policy": policy})
    machine = office.open().machine
    given = machine.handle(Begin(dict.fromkeys(machine.plan.parts, 1)), 0.0)
    assert len(given) == 2
    for number in range(20):
        done = given[number]
        assert isinstance(done, Dispatch)
        (more,) = machine.handle(Accepted(done.part, done.step), 0.0)
        given.append(more)
    return [action.part for action in given if isinstance(action, Dispatch)]


@pytest.mark.parametrize("policy", ["uniform", "by_examples", "round_robin", "oort", "power_of_choice"])
def test_who_works_next_in_a_buffer_is_drawn_by_the_seed(policy: str) -> None:
    first = sequence(1, policy)
    assert sequence(1, policy) == first
    assert sequence(2, policy) != first
    assert set(first) == set(parts_of(0, 1, 2, 3))


def test_open_work_of_a_learner_that_came_back_with_other_data_is_given_out_anew() -> None:
    office = Office(own=True, learners=2, buffer={"size": 2})
    desk = Desk({"own-learner-0": Ticket(1, 4), "own-learner-1": Ticket(1, 7)}, {"own-learner-0": 5})
    assert set(office.open(2, desk).machine.pending) == set(desk.tickets)
    office.join("learner-1", own=35)
    opening = office.open(2, desk)
    assert opening.parts["own-learner-1"].examples == 35
    assert opening.machine.pending == ("own-learner-0",)
    assert set(office.open(3, desk).machine.pending) == set(desk.tickets)


def test_the_sum_of_a_buffer_has_room_for_its_heaviest_updates() -> None:
    values: dict[str, Any] = {"own": True, "learners": 3, "aggregate": {"max_abs": 1.0}}
    assert Office(**values).open().scale != Office(**values, buffer={"size": 1000}).open().scale
