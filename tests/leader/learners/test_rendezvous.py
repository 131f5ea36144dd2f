"""Waiting for learners: who is waited for, for how long, and what is said when they stay away."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from leader.config import RunConfig
from leader.events import Event, EventStream, WaitingForLearners
from leader.learners.rendezvous import Rendezvous
from leader.learners.workforce import Workforce
from leader.trust.identities.callers import anonymous
from protos import leader_pb2
from utils.errors import TooFewLearnersError


class Camp:
    """A rendezvous over a workforce that a test fills."""

    def __init__(self, *, learners: int = 2, wait_s: float = 30.0, lease_s: float = 30.0) -> None:
        values = {"learners": learners, "cohort": {"wait_s": wait_s, "lease_s": lease_s}}
        config = RunConfig.model_validate(values)
        events = EventStream()
        self.told: list[Event] = []
        events.subscribe(self.told.append)
        self.workforce = Workforce(config, classes=10, labels=np.arange(20) % 10, seats=None, events=events)
        self.over = False
        self.rendezvous = Rendezvous(config, self.workforce, events, lambda: self.over)

    def join(self, name: str) -> None:
        info = leader_pb2.LearnerInfo(name=name, control=leader_pb2.CONTROL_SESSION)
        self.workforce.register(info, anonymous(f"peer-{name}"))

    def leave(self, name: str) -> None:
        (member,) = [member for member in self.workforce if member.name == name]
        self.workforce.leave(member, "gone")

    @property
    def waiting(self) -> list[Event]:
        return [event for event in self.told if isinstance(event, WaitingForLearners)]


def test_the_first_round_waits_for_the_last_learner_that_is_wanted() -> None:
    async def scenario() -> None:
        camp = Camp()
        camp.join("a")
        waiting = asyncio.ensure_future(camp.rendezvous.first(0, resumed=False))
        await asyncio.sleep(0)
        assert camp.waiting == [WaitingForLearners(1, 2)]
        assert not waiting.done()
        camp.join("b")
        await asyncio.wait_for(waiting, 10)

    asyncio.run(scenario())


def test_too_few_learners_for_too_long_is_an_error_that_counts_them() -> None:
    camp = Camp(learners=3, wait_s=0.01)
    camp.join("a")
    with pytest.raises(TooFewLearnersError, match=r"1 of 3 learners came within 0\.01 s \(cohort\.wait_s\)"):
        asyncio.run(camp.rendezvous.first(0, resumed=False))


def test_a_resumed_run_goes_on_with_those_who_came_back_within_a_lease() -> None:
    camp = Camp(learners=3, lease_s=0.01)
    camp.join("a")
    asyncio.run(camp.rendezvous.first(4, resumed=True))
    deserted = Camp(lease_s=0.01, wait_s=0.01)
    with pytest.raises(TooFewLearnersError, match="after round 4; start learners, then resume"):
        asyncio.run(deserted.rendezvous.first(4, resumed=True))


def test_between_rounds_somebody_must_be_able_to_do_the_work() -> None:
    async def scenario() -> None:
        camp = Camp()
        camp.join("a")
        camp.join("b")
        camp.workforce.deal()
        await camp.rendezvous.enough(1)
        assert camp.waiting == []
        camp.leave("a")
        await camp.rendezvous.enough(2)
        camp.leave("b")
        waiting = asyncio.ensure_future(camp.rendezvous.enough(3))
        await asyncio.sleep(0)
        assert camp.waiting == [WaitingForLearners(0, 2)]
        assert not waiting.done()
        camp.join("c")
        await asyncio.wait_for(waiting, 10)

    asyncio.run(scenario())


def test_nobody_is_waited_for_when_the_run_is_over() -> None:
    camp = Camp()
    camp.over = True
    asyncio.run(camp.rendezvous.enough(1))
    asyncio.run(camp.rendezvous.first(1, resumed=False))
    assert len(camp.workforce) == 0
