from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

from leader.events import LearnerJoined, LearnerLeft
from leader.learners.links import LearnerLink, SessionLink
from leader.learners.membership import Membership
from leader.trust.identities.callers import anonymous
from tests.leader.learners.crew import Crew, info


def test_joining_is_told_once_a_learner() -> None:
    crew = Crew()
    (a,) = crew.join("a")
    crew.workforce.register(info("a", token=a.token), anonymous("peer"))
    crew.join("b", own=5)
    assert crew.events == [
        LearnerJoined(1, "a", "cpu", "session", None),
        LearnerJoined(2, "b", "cpu", "session", 5),
    ]


def test_leaving_is_told_once_and_an_old_registration_cannot_leave_for_a_new_one() -> None:
    crew = Crew()
    (a,) = crew.join("a")
    again = crew.workforce.register(info("a", token=a.token), anonymous("peer"))
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


def test_all_who_can_be_told_are_told_once_by_their_newest_link() -> None:
    crew = Crew()
    a, b, _ = crew.join("a", "b", "plain")
    old, new, other, everybody = SessionLink(), SessionLink(), SessionLink(), LearnerLink()
    for member, link in ((a, old), (b, other), (a, new)):
        crew.workforce.attach(member, link)
    crew.workforce.address(everybody)
    assert {*crew.workforce.links()} == {new, other, everybody}
    crew.workforce.leave(b, "")
    assert {*crew.workforce.links()} == {new, everybody}


def test_somebody_is_silent_until_the_newest_registration_of_each_has_called() -> None:
    register = Membership(max_learners=2, lease_s=1.0)
    a, _ = register.register(info("a"), anonymous("ipv4:1.1.1.1:1"), 0.0)
    again, _ = register.register(info("a", token=a.token), anonymous("ipv4:1.1.1.1:1"), 0.0)
    register.touch(a, 1.0)
    told = [{*register.silent}]
    register.touch(again, 1.0)
    told.append({*register.silent})
    b, _ = register.register(info("b"), anonymous("ipv4:1.1.1.1:2"), 0.0)
    told.append({*register.silent})
    register.remove(b)
    assert [*told, {*register.silent}] == [{a.learner_id}, set(), {b.learner_id}, set()]
