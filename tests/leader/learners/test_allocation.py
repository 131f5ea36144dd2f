from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leader.config import RunConfig
from leader.events import EventStream, LearnerLeft, LearnerOverdue
from leader.learners.allocation import Allocation
from leader.learners.membership import Member, OwnData
from leader.learners.standing import Standings
from leader.learners.workforce import Workforce
from leader.runtime import WallClock
from leader.state import Seats
from leader.trust.identities.callers import anonymous
from protos import leader_pb2
from tests.leader.learners.crew import LABELS, Crew, info
from utils.errors import NotReadyError


def test_the_data_is_dealt_out_once_and_whole() -> None:
    crew = Crew(learners=3)
    members = crew.dealt("a", "b", "c")
    shards = [shard for member in members for shard in crew.examples_of(member)]
    assert [len(shard) for shard in shards] == [20, 20, 20]
    assert sorted(example for shard in shards for example in shard) == list(range(60))
    assert list(crew.workforce.parts()) == ["shard-00000", "shard-00001", "shard-00002"]
    assert [part.examples for part in crew.workforce.parts().values()] == [20, 20, 20]
    crew.join("d")
    crew.workforce.deal()
    assert len(crew.workforce.parts()) == 3


def test_the_split_depends_on_the_learners_waited_for_and_not_on_who_comes() -> None:
    few, many = Crew(learners=3), Crew(learners=3)
    few.dealt("a", "b")
    many.dealt("a", "b", "c", "d")
    assert [len(shard) for shard in (few.workforce.seats() or pytest.fail("no deal")).shards] == [20, 20, 20]
    assert list(few.workforce.parts()) == list(many.workforce.parts())
    assert sorted(few.workforce.holders().values()) == [1, 1, 2]
    assert sorted(many.workforce.holders().values()) == [1, 2, 3]


def test_a_lost_learners_part_goes_to_another_and_its_data_with_it() -> None:
    crew = Crew()
    a, b = crew.dealt("a", "b")
    (lost,) = crew.examples_of(b)
    crew.workforce.leave(b, "said goodbye")
    assert set(crew.workforce.holders().values()) == {a.learner_id}
    assert lost in crew.examples_of(a)
    assert crew.events[-1] == LearnerLeft(b.learner_id, "b", "said goodbye")
    with pytest.raises(NotReadyError, match="b does not hold shard 1; wait for a work order"):
        crew.workforce.shard_of(b, 1)


def test_a_learner_that_joins_later_gets_work_at_the_next_round() -> None:
    crew = Crew()
    crew.dealt("a", "b")
    (b,) = [member for member in crew.workforce if member.name == "b"]
    crew.workforce.leave(b, "gone")
    (c,) = crew.join("c")
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1}
    crew.workforce.rebalance()
    assert set(crew.workforce.holders().values()) == {1, c.learner_id}


def test_parts_that_nobody_holds_go_to_the_next_learner_that_comes() -> None:
    crew = Crew(learners=1)
    (a,) = crew.dealt("a")
    crew.workforce.leave(a, "gone")
    assert crew.workforce.holders() == {}
    assert list(crew.workforce.parts()) == ["shard-00000"]
    (b,) = crew.join("b")
    assert crew.workforce.holders() == {"shard-00000": b.learner_id}


class Clock(WallClock):
    """A clock that a test turns."""

    time = 0.0

    def now(self) -> float:
        return self.time


moves = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.sampled_from(["join", "leave", "own", "rebalance", "spectate", "late", "slow", "works", "later"]),
    ),
    max_size=15,
)


@given(start=st.integers(1, 4), steps=moves)
@example(start=2, steps=[("a", "own"), ("c", "own"), ("c", "late"), ("a", "join")])
def test_whoever_comes_and_goes_every_part_has_a_holder_that_is_there_and_may_work(
    start: int, steps: list[tuple[str, str]]
) -> None:
    crew = Crew(learners=start, require="fit")
    crew.join(*"abcde"[:start], tags="fit")
    crew.workforce.deal()
    workforce, clock = crew.workforce, Clock()
    workforce.clock = clock
    for name, move in steps:
        here = {member.name: member for member in workforce}
        token = here[name].token if name in here else b""
        if move == "leave" and name in here:
            workforce.leave(here[name], "gone")
        elif move == "rebalance":
            workforce.rebalance()
        elif move in ("join", "own"):
            own_data = 7 if move == "own" else 0
            workforce.register(info(name, own_data, token=token, tags="fit"), anonymous("peer"))
        elif move in ("late", "slow") and name in here:
            workforce.overdue([here[name].learner_id], 10.0, abandoned=move == "late")
        elif move == "works" and name in here:
            workforce.worked(here[name])
        elif move == "later":
            clock.time += 15.0
        elif move == "spectate":
            workforce.register(info(name, 7, token=token), anonymous("peer"))
        here = {member.name: member for member in workforce if "fit" in member.tags}
        assert workforce.eligible() == len(here)
        takers = {member.learner_id for member in here.values() if member.own_data is None}
        holders = {part: id_ for part, id_ in workforce.holders().items() if part.startswith("shard-")}
        assert set(holders.values()) <= takers
        assert len(holders) == (start if takers else 0)
        own = {f"own-{name}": member.learner_id for name, member in here.items() if member.own_data}
        doing = {part: id_ for part, id_ in workforce.holders().items() if part not in holders}
        assert doing.items() <= own.items()
        assert bool(doing) == bool(own)
        assert set(workforce.parts()) == {f"shard-{i:05d}" for i in range(start)} | set(own)
        seats = workforce.seats()
        assert seats is not None
        assert set(seats.holders.values()) <= set(here)


def test_the_shard_of_one_that_is_late_goes_to_others_and_comes_back_after_a_while() -> None:
    crew, clock = Crew(learners=2), Clock()
    crew.workforce.clock = clock
    eve, a = crew.dealt("eve", "a")
    crew.workforce.worked(a)
    crew.workforce.heard(eve)
    crew.workforce.overdue([eve.learner_id], 10.0, abandoned=True)
    assert set(crew.workforce.holders().values()) == {a.learner_id}
    moved = {"shard-00000": "a"}
    assert crew.events[-1] == LearnerOverdue(eve.learner_id, "eve", 10.0, 20.0, moved)
    clock.time = 19.9
    crew.workforce.rebalance()
    assert set(crew.workforce.holders().values()) == {a.learner_id}
    clock.time = 20.0
    crew.workforce.rebalance()
    assert set(crew.workforce.holders().values()) == {a.learner_id, eve.learner_id}


def test_one_whose_work_is_too_old_comes_after_the_others_by_the_time_that_it_had_it() -> None:
    crew, clock = Crew(learners=2), Clock()
    crew.workforce.clock = clock
    slow, a = crew.dealt("slow", "a")
    crew.workforce.worked(a)
    crew.workforce.heard(slow)
    slow.owes_since, clock.time = 2.0, 2.5
    crew.workforce.overdue([slow.learner_id], 3600.0, abandoned=False)
    assert crew.events[-1] == LearnerOverdue(slow.learner_id, "slow", 0.5, 1.0, {"shard-00000": "a"})
    clock.time = 3.5
    crew.workforce.rebalance()
    crew.workforce.worked(slow)
    assert not slow.owes_since
    assert set(crew.workforce.holders().values()) == {a.learner_id, slow.learner_id}


def test_one_that_is_alone_keeps_its_work_however_late_it_is_and_whoever_comes_then_takes_it_over() -> None:
    crew = Crew(learners=1)
    (eve,) = crew.dealt("eve")
    crew.workforce.overdue([eve.learner_id], 10.0, abandoned=True)
    assert crew.workforce.holders() == {"shard-00000": eve.learner_id}
    (a,) = crew.join("a")
    assert crew.workforce.holders() == {"shard-00000": a.learner_id}
    crew.workforce.leave(a, "gone")
    assert crew.workforce.holders() == {"shard-00000": eve.learner_id}


def test_where_an_exchange_closes_without_them_those_who_have_worked_are_only_slow() -> None:
    crew = Crew(learners=3)
    slow, _, eve = crew.dealt("slow", "a", "eve")
    crew.workforce.worked(slow)
    crew.workforce.overdue([slow.learner_id, eve.learner_id], 10.0, abandoned=False)
    assert eve.learner_id not in crew.workforce.holders().values()
    assert slow.learner_id in crew.workforce.holders().values()


def test_own_data_that_is_late_is_left_out_as_long_as_the_rule_has_enough_without_it() -> None:
    crew = Crew(learners=2, holder="learner")
    eve, _ = crew.join("eve", "a", own=5)
    crew.workforce.deal()
    crew.workforce.overdue([eve.learner_id], 10.0, abandoned=True)
    assert list(crew.workforce.holders()) == ["own-a"]
    assert list(crew.workforce.parts()) == ["own-eve", "own-a"]
    assert crew.workforce.enough()
    crew.workforce.overdue([member.learner_id for member in crew.workforce], 10.0, abandoned=True)
    assert list(crew.workforce.holders()) == ["own-eve", "own-a"]


def test_own_data_that_is_late_is_waited_for_where_the_others_can_not_pay_for_a_round() -> None:
    crew = Crew(learners=2, holder="learner")
    eve, _ = crew.join("eve", "a", own=5)
    crew.workforce.deal()
    crew.workforce.ask_spent(lambda: {"own-a"})
    crew.workforce.overdue([eve.learner_id], 10.0, abandoned=True)
    assert list(crew.workforce.holders()) == ["own-eve", "own-a"]


def test_a_learner_that_brings_its_own_data_next_time_gives_its_part_up() -> None:
    crew = Crew()
    _, b = crew.dealt("a", "b")
    again = crew.workforce.register(info("b", own=7, token=b.token), anonymous("peer"))
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1, "own-b": 2}
    crew.workforce.leave(again, "gone")
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1}
    seats = crew.workforce.seats()
    assert seats is not None
    assert seats.holders == {"0": "a", "1": "a"}


def test_own_data_is_a_part_of_its_owner_alone() -> None:
    crew = Crew(holder="learner")
    a, b = (crew.join(name, own=own)[0] for name, own in (("a", 5), ("b", 7)))
    crew.workforce.deal()
    assert crew.workforce.holders() == {"own-a": a.learner_id, "own-b": b.learner_id}
    assert {part.id: part.examples for part in crew.workforce.parts().values()} == {"own-a": 5, "own-b": 7}
    crew.workforce.leave(a, "gone")
    assert crew.workforce.holders() == {"own-b": b.learner_id}
    assert list(crew.workforce.parts()) == ["own-b"]


@pytest.mark.parametrize(("quorum", "needed"), [(1.0, 4), (0.75, 3), (0.6, 3), (0.5, 2), (0.0, 1)])
def test_a_round_needs_a_quorum_of_the_own_data_that_was_there_at_the_start(
    quorum: float, needed: int
) -> None:
    crew = Crew(holder="learner", quorum=quorum)
    members = crew.join(*"abcd", own=5)
    crew.workforce.deal()
    enough = []
    while members:
        if crew.workforce.enough():
            enough.append(len(members))
        crew.workforce.leave(members.pop(), "gone")
    assert enough == list(range(4, needed - 1, -1))
    assert not crew.workforce.enough()


def test_the_leaders_shards_need_at_least_one_taker() -> None:
    crew = Crew(quorum=0.5)
    (a,) = crew.join("a")
    crew.join("b", own=5)
    crew.workforce.deal()
    assert crew.workforce.enough()
    crew.workforce.leave(a, "gone")
    assert not crew.workforce.enough()


def test_a_part_counts_only_the_examples_that_are_trained_on() -> None:
    config = RunConfig.model_validate({"learners": 2, "evaluation": {"holdout": 0.25}})
    workforce = Workforce(config, classes=10, labels=LABELS, seats=None, events=EventStream())
    workforce.register(info("a"), anonymous("ipv4:1.1.1.1:1"))
    workforce.register(info("b", own=7), anonymous("ipv4:1.1.1.1:2"))
    workforce.deal()
    assert {part.id: part.examples for part in workforce.parts().values()} == {"shard-00000": 45, "own-b": 6}


# --- what a restart finds ------------------------------------------------------------------


def test_a_resumed_run_gives_each_learner_that_comes_back_what_it_had() -> None:
    before = Crew()
    members = before.dealt("a", "b", "c")
    expected = {member.name: before.examples_of(member) for member in members}
    seats = before.workforce.seats()
    assert seats is not None
    after = Crew(seats=seats)
    tokens = {member.name: member.token for member in members}
    resumed = [after.workforce.register(info(name, token=tokens[name]), anonymous("peer")) for name in "cab"]
    after.workforce.deal()
    assert {member.name: after.examples_of(member) for member in resumed} == expected


def test_a_resumed_run_gives_the_shards_of_those_who_stayed_away_to_the_others() -> None:
    seats = Seats((np.array([0, 1]), np.array([2, 3]), np.array([4])), {"0": "a", "1": "b", "2": "c"}, 0)
    crew = Crew(seats=seats)
    b, new = crew.dealt("b", "new")
    held = {member.name: crew.examples_of(member) for member in (b, new)}
    assert [2, 3] in held["b"]
    assert sorted(example for shards in held.values() for shard in shards for example in shard) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_seats_are_unknown_before_the_deal() -> None:
    crew = Crew()
    (a,) = crew.join("a")
    assert crew.workforce.seats() is None
    assert crew.workforce.parts() == {}
    with pytest.raises(NotReadyError, match="dealt out when enough learners are here"):
        crew.workforce.shard_of(a, None)


def test_a_plain_learner_that_names_no_shard_gets_its_first() -> None:
    crew = Crew(learners=1)
    (a,) = crew.dealt("a")
    assert crew.workforce.shard_of(a, None).tolist() == list(range(60))


@given(
    st.lists(st.tuples(st.sampled_from(["shared", "own"]), st.integers(0, 4)), min_size=1, max_size=8),
)
def test_a_look_at_those_alone_that_may_stand_behind_finds_what_a_look_at_all_does(
    crew: list[tuple[str, int]],
) -> None:
    ranks = {at: rank for at, (_, rank) in enumerate(crew, 1)}

    def spread(noted: set[int] | None) -> tuple[dict[str, int], dict[str, int]]:
        config = RunConfig.model_validate({"learners": len(crew), "data": {"shards": 3}})
        allocation = Allocation(
            config,
            labels=LABELS,
            groups=None,
            resumed=None,
            rank=lambda member: ranks[member.learner_id],
            noted=lambda: noted,
        )
        members = [seated(at, kind) for at, (kind, _) in enumerate(crew, 1)]
        for member in members:
            allocation.place(member, eligible=True)
        allocation.deal()
        dealt = dict(allocation.holders())
        allocation.remove(members[0])
        return dealt, dict(allocation.holders())

    dealt, left = spread(None)
    assert spread({learner for learner, rank in ranks.items() if rank} | {1}) == (dealt, left)
    own = {at: rank for at, rank in ranks.items() if crew[at - 1][0] == "own"}
    passed_over = {at for at, rank in own.items() if rank > max(1, min(own.values()))}
    if len(own) < len(crew) or len(passed_over) < len(own):  # else no round could be made
        assert {at for at in own if at not in dealt.values()} == passed_over


def seated(learner_id: int, kind: str) -> Member:
    return Member(
        learner_id=learner_id,
        name=f"{kind}-{learner_id}",
        token=b"",
        control=leader_pb2.CONTROL_SESSION,
        network_addr="",
        caller=anonymous(f"ipv4:1.1.1.1:{learner_id}"),
        device="cpu",
        own_data=OwnData(9, 10, "f") if kind == "own" else None,
        last_seen=0.0,
    )


def test_who_comes_and_goes_while_all_is_calm_costs_no_look_at_anybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crew = Crew()
    for member in crew.dealt(*(f"here-{number}" for number in range(50))):
        crew.workforce.heard(member)
    looked_at: list[str] = []

    def rank(self: Standings, member: Member, now: float) -> int:
        looked_at.append(member.name)
        return 0

    monkeypatch.setattr(Standings, "rank", rank)
    (passer,) = crew.join("passer")
    crew.workforce.heard(passer)
    crew.workforce.leave(passer, "gone")
    assert looked_at == []
