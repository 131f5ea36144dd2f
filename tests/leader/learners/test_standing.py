"""Standings: who held the run up comes after the others, for longer each time, and strangers answer for each other."""

from __future__ import annotations

import pytest

from leader.learners.membership import Member, Membership
from leader.learners.standing import Standings
from leader.trust.identities.callers import anonymous
from tests.leader.learners.crew import info


def member(name: str, *, called: bool = True, joined: float = 0.0) -> Member:
    register = Membership(max_learners=1, lease_s=1.0)
    made, _ = register.register(info(name), anonymous(f"ipv4:1.1.1.1:{name}"), 0.0)
    made.called, made.joined = called, joined
    return made


def test_everybody_is_equal_as_long_as_nobody_holds_the_run_up() -> None:
    standings = Standings(10)
    assert standings.rank(member("silent", called=False), 0.0) == 0
    standings.worked("a")
    assert [standings.rank(member(name), 0.0) for name in ("a", "b")] == [0, 0]
    assert standings.rank(member("silent", called=False), 0.0) == 2


def test_who_held_the_run_up_comes_last_and_the_strangers_before_it() -> None:
    standings = Standings(10)
    for name in ("a", "slow"):
        standings.worked(name)
    standings.held_up({"slow": 10.0, "eve": 10.0}, 100.0)
    came = {"a": 0, "here": 1, "slow": 3, "eve": 4}
    assert {name: standings.rank(member(name, joined=50.0), 101.0) for name in came} == came
    assert standings.rank(member("new", joined=100.5), 101.0) == 2
    assert standings.rank(member("mute", called=False, joined=50.0), 101.0) == 2
    assert {standings.rank(member(name, joined=50.0), 120.0) for name in came} == {0}


def test_each_time_costs_twice_as_long_until_the_worst_and_work_that_counts_is_forgiven_for() -> None:
    standings = Standings(10)
    behind = []
    for number in range(8):
        standings.held_up({"eve": 1.0}, 1000.0 * number)
        behind.append(standings.behind_s("eve", 1000.0 * number))
    assert behind == [2, 4, 8, 16, 32, 64, 64, 64]
    for _ in range(40):
        standings.worked("eve")
    standings.held_up({"eve": 1.0}, 9000.0)
    assert standings.behind_s("eve", 9000.0) == pytest.approx(2.0, abs=0.3)


def test_a_new_name_is_no_better_for_strangers_however_many_are_late_at_once() -> None:
    standings = Standings(100)
    standings.worked("a")
    standings.held_up({f"x{number}": 1.0 for number in range(40)}, 0.0)
    new = member("y", joined=1.0)
    assert (standings.rank(new, 1.9), standings.rank(new, 2.0)) == (2, 0)
    standings.held_up({"y": 1.0}, 2.0)
    assert standings.rank(member("z", joined=3.0), 5.9) == 2


def test_so_many_names_are_remembered_and_no_more() -> None:
    standings = Standings(2)
    for name in "abc":
        standings.worked(name)
    assert [standings.proven(name) for name in "abc"] == [False, True, True]
    standings = Standings(2)
    for name in "abc":
        standings.held_up({name: 1.0}, 0.0)
    assert [standings.behind_s(name, 0.0) > 0 for name in "ab"] == [False, False]
    assert standings.behind_s("c", 0.0) == 2.0


def test_all_is_calm_only_while_nobody_can_have_another_rank_than_0() -> None:
    standings = Standings(10)
    assert standings.calm(0.0)
    standings.held_up({"eve": 10.0}, 100.0)
    standings.held_up({"bob": 1.0}, 101.0)
    assert [standings.calm(now) for now in (101.0, 119.9, 120.0)] == [False, False, True]
