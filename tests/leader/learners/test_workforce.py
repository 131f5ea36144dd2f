from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.config import RunConfig
from leader.events import Event, EventStream, LearnerJoined, LearnerLeft
from leader.learners.links import SessionLink
from leader.learners.membership import Member
from leader.learners.workforce import Workforce
from leader.state import Seats
from protos import leader_pb2
from utils.errors import IncompatibleError, NotReadyError

LABELS = np.arange(60) % 10


def info(
    name: str, own: int = 0, classes: int = 10, token: bytes = b"", tags: str = ""
) -> leader_pb2.LearnerInfo:
    this = leader_pb2.LearnerInfo(
        name=name, control=leader_pb2.CONTROL_SESSION, token=token, device="cpu", tags=tags.split()
    )
    if own:
        this.own_data.CopyFrom(leader_pb2.OwnData(examples=own, classes=classes, fingerprint=f"f{own}"))
    return this


class Crew:
    """A workforce, what it published, and how often it called."""

    def __init__(
        self, *, learners: int = 2, seats: Seats | None = None, holder: str = "leader", **cohort: Any
    ) -> None:
        values = {"learners": learners, "data": {"holder": holder}, "cohort": cohort}
        config = RunConfig.model_validate(values)
        events = EventStream()
        self.events: list[Event] = []
        events.subscribe(self.events.append)
        labels = LABELS if holder == "leader" else None
        self.workforce = Workforce(config, classes=10, labels=labels, seats=seats, events=events)
        self.calls = 0
        self.workforce.subscribe(self._called)

    def _called(self) -> None:
        self.calls += 1

    def join(self, *names: str, own: int = 0, tags: str = "") -> list[Member]:
        return [self.workforce.register(info(name, own, tags=tags), f"ipv4:1.1.1.1:{name}") for name in names]

    def dealt(self, *names: str) -> list[Member]:
        members = self.join(*names)
        self.workforce.deal()
        return members

    def examples_of(self, member: Member) -> list[list[int]]:
        shards = self.workforce.seats()
        assert shards is not None
        held = [part for part, learner in self.workforce.holders().items() if learner == member.learner_id]
        return [self.workforce.shard_of(member, int(part[-5:])).tolist() for part in held]


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


moves = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from(["join", "leave", "own", "rebalance", "spectate"])),
    max_size=15,
)


@given(start=st.integers(1, 4), steps=moves)
def test_whoever_comes_and_goes_every_part_has_a_holder_that_is_there_and_may_work(
    start: int, steps: list[tuple[str, str]]
) -> None:
    crew = Crew(learners=start, require="fit")
    crew.join(*"abcde"[:start], tags="fit")
    crew.workforce.deal()
    workforce = crew.workforce
    for name, move in steps:
        here = {member.name: member for member in workforce}
        if move == "leave" and name in here:
            workforce.leave(here[name], "gone")
        elif move == "rebalance":
            workforce.rebalance()
        elif move in ("join", "own"):
            workforce.register(info(name, 7 if move == "own" else 0, tags="fit"), "peer")
        elif move == "spectate":
            workforce.register(info(name, 7), "peer")
        here = {member.name: member for member in workforce if "fit" in member.tags}
        assert workforce.eligible() == len(here)
        takers = {member.learner_id for member in here.values() if member.own_data is None}
        holders = {part: id_ for part, id_ in workforce.holders().items() if part.startswith("shard-")}
        assert set(holders.values()) <= takers
        assert len(holders) == (start if takers else 0)
        own = {f"own-{name}": member.learner_id for name, member in here.items() if member.own_data}
        assert {part: id_ for part, id_ in workforce.holders().items() if part not in holders} == own
        assert set(workforce.parts()) == {f"shard-{i:05d}" for i in range(start)} | set(own)
        seats = workforce.seats()
        assert seats is not None
        assert set(seats.holders.values()) <= set(here)


def test_a_learner_that_brings_its_own_data_next_time_gives_its_part_up() -> None:
    crew = Crew()
    _, b = crew.dealt("a", "b")
    again = crew.workforce.register(info("b", own=7, token=b.token), "peer")
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1, "own-b": 2}
    crew.workforce.leave(again, "gone")
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1}
    seats = crew.workforce.seats()
    assert seats is not None
    assert seats.holders == {"0": "a", "1": "a"}


# --- own data ------------------------------------------------------------------------------


def test_own_data_is_a_part_of_its_owner_alone() -> None:
    crew = Crew(holder="learner")
    a, b = (crew.join(name, own=own)[0] for name, own in (("a", 5), ("b", 7)))
    crew.workforce.deal()
    assert crew.workforce.holders() == {"own-a": a.learner_id, "own-b": b.learner_id}
    assert {part.id: part.examples for part in crew.workforce.parts().values()} == {"own-a": 5, "own-b": 7}
    crew.workforce.leave(a, "gone")
    assert crew.workforce.holders() == {"own-b": b.learner_id}
    assert list(crew.workforce.parts()) == ["own-b"]


def test_learners_whose_data_does_not_fit_the_run_are_refused() -> None:
    crew = Crew(holder="learner")
    with pytest.raises(IncompatibleError, match=r"hands out no data .* start the learner with --data DIR"):
        crew.join("a")
    with pytest.raises(IncompatibleError, match="your data has 3 classes, this run's model 10"):
        crew.workforce.register(info("a", own=5, classes=3), "peer")
    assert len(crew.workforce) == 0


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


# --- who may take part ---------------------------------------------------------------------


def test_learners_that_do_not_meet_the_requirement_are_registered_and_hold_nothing() -> None:
    crew = Crew(learners=3, require="site-a")
    (a,) = crew.join("a", tags="site-a night")
    b, _ = crew.join("b", "c", tags="site-b")
    crew.join("d", own=5)
    crew.join("e", own=7, tags="site-a")
    crew.workforce.deal()
    assert len(crew.workforce) == 5
    assert crew.workforce.eligible() == 2
    # 3 wanted, 1 with own data: 2 shards.
    assert {part.id: part.examples for part in crew.workforce.parts().values()} == {
        "shard-00000": 30,
        "shard-00001": 30,
        "own-e": 7,
    }
    assert crew.workforce.holders() == {"shard-00000": 1, "shard-00001": 1, "own-e": 5}
    seats = crew.workforce.seats()
    assert seats is not None
    assert (seats.holders, seats.own) == ({"0": "a", "1": "a"}, 1)
    with pytest.raises(NotReadyError, match="b does not hold shard 0"):
        crew.workforce.shard_of(b, 0)
    crew.workforce.leave(a, "gone")
    crew.workforce.rebalance()
    assert crew.workforce.holders() == {"own-e": 5}
    assert not crew.workforce.enough()


def test_rounds_wait_until_somebody_meets_the_requirement() -> None:
    crew = Crew(learners=2, require="site-a")
    crew.dealt("a", "b")
    assert len(crew.workforce.parts()) == 2  # the data is split, though nobody may hold it yet
    assert crew.workforce.holders() == {}
    assert not crew.workforce.enough()
    (c,) = crew.join("c", tags="site-a")
    assert crew.workforce.holders() == {"shard-00000": c.learner_id, "shard-00001": c.learner_id}
    assert crew.workforce.enough()


def test_the_quorum_of_own_data_counts_those_that_take_part() -> None:
    crew = Crew(holder="learner", require="site-a")
    (a,) = crew.join("a", own=5, tags="site-a")
    crew.join("b", "c", own=5)
    crew.workforce.deal()
    assert crew.workforce.enough()
    crew.workforce.leave(a, "gone")
    assert not crew.workforce.enough()


def test_a_learner_that_comes_back_with_other_tags_gains_or_loses_its_place() -> None:
    crew = Crew(learners=2, require="site-a")
    a, b = crew.join("a", "b", tags="site-a")
    crew.workforce.deal()
    crew.workforce.register(info("b", token=b.token), "peer")
    assert crew.workforce.holders() == {"shard-00000": a.learner_id, "shard-00001": a.learner_id}
    again = crew.workforce.get(b.learner_id)
    assert again is not None
    crew.workforce.register(info("b", token=again.token, tags="site-a"), "peer")
    crew.workforce.rebalance()
    assert crew.workforce.holders() == {"shard-00000": a.learner_id, "shard-00001": b.learner_id}


def test_why_a_learner_is_left_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    crew = Crew(require="site-a,device=cuda,memory>=8")
    with caplog.at_level(logging.WARNING):
        (a,) = crew.join("a", tags="night b")
        for _ in range(3):
            a = crew.workforce.register(info("a", token=a.token, tags="night b"), "peer")
        fit = info("c", tags="site-a")
        fit.device_kind, fit.memory_bytes = "cuda", 8 << 30
        crew.workforce.register(fit, "peer")
    assert caplog.messages == [
        "a is left out, it does not meet cohort.require (site-a,device=cuda,memory>=8): "
        "it said tags b,night, device unknown, 0.0 GiB of memory"
    ]


# --- what a restart finds ------------------------------------------------------------------


def test_a_resumed_run_gives_each_learner_that_comes_back_what_it_had() -> None:
    before = Crew()
    members = before.dealt("a", "b", "c")
    expected = {member.name: before.examples_of(member) for member in members}
    seats = before.workforce.seats()
    assert seats is not None
    after = Crew(seats=seats)
    resumed = after.dealt("c", "a", "b")
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


# --- coming, going, telling ----------------------------------------------------------------


def test_joining_is_told_once_a_learner() -> None:
    crew = Crew()
    (a,) = crew.join("a")
    crew.workforce.register(info("a", token=a.token), "peer")
    crew.join("b", own=5)
    assert crew.events == [
        LearnerJoined(1, "a", "cpu", "session", None),
        LearnerJoined(2, "b", "cpu", "session", 5),
    ]


def test_leaving_is_told_once_and_an_old_registration_cannot_leave_for_a_new_one() -> None:
    crew = Crew()
    (a,) = crew.join("a")
    again = crew.workforce.register(info("a", token=a.token), "peer")
    crew.workforce.leave(a, "old")
    assert crew.workforce.get(again.learner_id) is again
    crew.workforce.leave(again, "new")
    crew.workforce.leave(again, "new")
    assert crew.events[1:] == [LearnerLeft(1, "a", "new")]


def test_every_change_wakes_those_who_wait_and_the_round() -> None:
    async def scenario() -> None:
        crew = Crew()
        waiting = asyncio.ensure_future(
            crew.workforce.changed.wait_until(lambda: len(crew.workforce) == 1, timeout_s=20)
        )
        await asyncio.sleep(0)
        (a,) = crew.join("a")
        assert await waiting
        calls = [crew.calls]
        link = SessionLink()
        changes: list[Callable[[], None]] = [
            lambda: crew.workforce.attach(a, link),
            lambda: crew.workforce.detach(a, link),
            crew.workforce.rebalance,
            lambda: crew.workforce.leave(a, "gone"),
        ]
        for change in changes:
            change()
            calls.append(crew.calls)
        assert all(later > earlier for earlier, later in pairwise(calls))

    asyncio.run(scenario())


def test_a_new_session_ends_the_old_one_and_outlives_its_break() -> None:
    async def scenario() -> None:
        crew = Crew()
        (a,) = crew.join("a")
        old, new = SessionLink(), SessionLink()
        crew.workforce.attach(a, old)
        crew.workforce.attach(a, new)
        assert await asyncio.wait_for(old.next(), 20) is None
        crew.workforce.detach(a, old)
        assert (a.link, a.connected) == (new, True)
        crew.workforce.detach(a, new)
        assert not a.connected
        crew.workforce.leave(a, "gone")
        assert await asyncio.wait_for(new.next(), 20) is None

    asyncio.run(scenario())


def test_learners_whose_lease_ran_out_are_let_go() -> None:
    crew = Crew(lease_s=1e-9)
    crew.join("a", "b")
    crew.workforce.expire()
    assert len(crew.workforce) == 0
    assert crew.events[-1] == LearnerLeft(2, "b", "no sign of life for 1e-09 s")
    patient = Crew(lease_s=1000.0)
    patient.join("a")
    patient.workforce.expire()
    assert len(patient.workforce) == 1


def test_a_part_counts_only_the_examples_that_are_trained_on() -> None:
    config = RunConfig.model_validate({"learners": 2, "evaluation": {"holdout": 0.25}})
    workforce = Workforce(config, classes=10, labels=LABELS, seats=None, events=EventStream())
    workforce.register(info("a"), "ipv4:1.1.1.1:1")
    workforce.register(info("b", own=7), "ipv4:1.1.1.1:2")
    workforce.deal()
    assert {part.id: part.examples for part in workforce.parts().values()} == {"shard-00000": 45, "own-b": 6}


def test_leases_are_watched() -> None:
    async def scenario() -> None:
        crew = Crew(lease_s=0.05)
        crew.join("a")
        watch = asyncio.ensure_future(crew.workforce.watch_leases())
        assert await crew.workforce.changed.wait_until(lambda: len(crew.workforce) == 0, timeout_s=20)
        watch.cancel()
        assert crew.events[-1] == LearnerLeft(1, "a", "no sign of life for 0.05 s")

    asyncio.run(scenario())


def test_a_leader_that_slept_gives_everybody_a_new_lease() -> None:
    async def scenario() -> None:
        crew = Crew(lease_s=0.05)
        (a,) = crew.join("a")
        watch = asyncio.ensure_future(crew.workforce.watch_leases())
        await asyncio.sleep(0)
        time.sleep(1.1)  # noqa: ASYNC251 - as a process does that is stopped
        before = a.last_seen
        await asyncio.sleep(0.001)
        watch.cancel()
        assert list(crew.workforce) == [a]
        assert a.last_seen > before + 1

    asyncio.run(scenario())
