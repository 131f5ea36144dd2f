"""The plan of a chaos run: decided by its seed, never two faults in one round, every kind among them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import LEADER, ROUNDS_A_FAULT, Kind, plan_faults
from utils.faults import EDGE_POINTS, LEADER_POINTS, LEARNER_POINTS, TREE_POINTS, parse_faults


def test_seed_and_rounds_alone_decide_the_plan() -> None:
    assert plan_faults(7, 60, 3) == plan_faults(7, 60, 3)
    assert plan_faults(7, 60, 3) != plan_faults(8, 60, 3)


@given(seed=st.integers(0, 2**32), rounds=st.integers(2, 300), learners=st.integers(1, 5))
def test_faults_come_one_after_the_other_within_the_run(seed: int, rounds: int, learners: int) -> None:
    plan = plan_faults(seed, rounds, learners)

    assert len(plan) == rounds // ROUNDS_A_FAULT
    struck = [fault.round for fault in plan]
    assert struck == sorted(set(struck))
    assert struck[0] >= 1
    assert struck[-1] <= rounds
    assert {fault.target for fault in plan} <= set(range(learners + 1))


def test_a_long_plan_holds_every_kind_and_every_fault_point() -> None:
    plan = plan_faults(1, 80, 3)

    assert {fault.kind for fault in plan} == set(Kind) - {Kind.STOP_AT}
    points = Counter(fault.detail for fault in plan if fault.kind is Kind.KILL_AT)
    assert set(points) == {*LEADER_POINTS, *LEARNER_POINTS}


def test_edges_are_struck_too_where_there_are_some() -> None:
    plan = [fault for fault in plan_faults(1, 120, 3, edges=2) if fault.target < LEADER]

    assert {fault.target for fault in plan} == {-1, -2}
    assert {fault.detail for fault in plan if fault.kind is Kind.KILL_AT} == set(EDGE_POINTS)
    assert {"edge killed", "edge frozen past its lease", "edge told to leave"} <= {
        fault.name for fault in plan
    }


def test_edges_under_edges_are_killed_and_stopped_at_every_point_and_their_leader_is_at_its_own() -> None:
    plan = plan_faults(1, 140, 3, edges=4, below=2)

    own = [fault for fault in plan if fault.below]
    assert {fault.target for fault in own} == {-3, -4}
    for kind in (Kind.KILL_AT, Kind.STOP_AT):
        assert {fault.detail for fault in own if fault.kind is kind} == set(EDGE_POINTS)
    assert {fault.detail for fault in plan if fault.target == LEADER} >= set(TREE_POINTS)
    assert {"edge under another killed at sending", "edge under another frozen at given"} <= {
        fault.name for fault in own
    }


def test_a_fault_point_belongs_to_the_program_that_it_is_planned_for() -> None:
    for fault in plan_faults(2, 200, 3):
        if fault.kind is Kind.KILL_AT:
            assert fault.detail.startswith("leader." if fault.target == LEADER else "learner.")
            assert parse_faults(f"kill@{fault.detail}:{fault.round}")[0].round == fault.round


def test_names_say_what_happens_to_whom() -> None:
    names = {fault.name for fault in plan_faults(1, 80, 3)}

    assert {
        "leader killed at checkpointing",
        "learner killed",
        "leader frozen past its lease",
        "connection cut in the middle of an upload",
        "connection half closed, down",
        "connections refused",
    } <= names
