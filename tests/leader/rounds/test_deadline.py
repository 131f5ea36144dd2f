"""The learned deadline against values computed by hand."""

from __future__ import annotations

import pytest

from leader.rounds.deadline import Deadlines


def deadlines(k: float = 3.0) -> Deadlines:
    return Deadlines(ceiling_s=100.0, floor_s=2.0, k=k)


def test_a_learner_without_a_past_gets_the_ceiling() -> None:
    known = deadlines()
    known.note("a", 5.0)
    assert known.of(["a"]) == 5.0
    assert known.of(["a", "new"]) == 100.0
    assert known.of([]) == 100.0


def test_the_deadline_is_median_plus_k_times_mad_of_the_slowest() -> None:
    known = deadlines()
    for seconds in (4.0, 5.0, 7.0, 50.0, 6.0):  # median 6, deviations 2 1 1 44 0: MAD 1
        known.note("slow", seconds)
    for seconds in (3.0, 3.0, 3.0):
        known.note("fast", seconds)
    assert known.of(["fast"]) == 3.0
    assert known.of(["fast", "slow"]) == pytest.approx(9.0)


def test_floor_and_ceiling_bound_it_and_k_zero_turns_it_off() -> None:
    known = deadlines()
    known.note("a", 0.1)
    known.note("b", 500.0)
    assert known.of(["a"]) == 2.0
    assert known.of(["b"]) == 100.0
    off = deadlines(k=0.0)
    off.note("a", 1.0)
    assert off.of(["a"]) == 100.0


def test_old_durations_are_forgotten() -> None:
    known = deadlines()
    for _ in range(20):
        known.note("a", 60.0)
    for _ in range(20):
        known.note("a", 10.0)
    assert known.of(["a"]) == 10.0
