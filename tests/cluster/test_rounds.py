"""The coordinator through whole rounds: when they close, when they are abandoned, and what stops a run."""

from __future__ import annotations

import asyncio
from collections import Counter

from leader.events import (
    LearnerJoined,
    LearnerLeft,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    UpdateAccepted,
)
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, leaves, play, train
from tests.tools.clock import TurnedClock

DEADLINE_S = 600
#: A learned deadline would need a past; at this one the round closes on two of three.
QUORUM: Settings = {**TINY, "learners": 3, "rounds": 2, "cohort.quorum": 0.6, "cohort.deadline_s": DEADLINE_S}


class Mute(Worker):
    """Trains, and never sends."""

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        await asyncio.Event().wait()


def test_a_round_closes_on_its_quorum_at_the_deadline_without_the_one_that_is_late(
    clock: TurnedClock,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "c", worker=Mute)
        for name in "ab":
            join(cluster, name)
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 2, "no updates")
        clock.turn(DEADLINE_S - 60)
        await asyncio.sleep(0)
        assert cluster.seen(RoundCommitted) == []
        clock.turn(60)
        await cluster.committed(2)

    cluster = play(scenario, QUORUM)
    assert [event.learners for event in cluster.seen(RoundCommitted)] == [2, 2]
    assert [event.examples for event in cluster.seen(RoundCommitted)] == [48, 48]
    # What has never come is not waited for again at once.
    assert [event.learners for event in cluster.seen(RoundStarted)] == [3, 2]


def test_a_round_without_its_quorum_is_abandoned_and_tried_again_until_it_has_it(clock: TurnedClock) -> None:
    sent: list[HeldUpdate] = []
    back = asyncio.Event()

    class Patient(Worker):
        """Sends its first update, and none after it before the others are back: alone it would end the run."""

        async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
            if sent:
                await back.wait()
            sent.append(held)
            await super()._send(to, held, resume=resume)

    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a", worker=Patient)
        mute = [join(cluster, name, worker=Mute) for name in "bc"]
        await cluster.event(UpdateAccepted)
        clock.turn(DEADLINE_S)
        abandoned = await cluster.event(RoundAbandoned)
        assert abandoned.round == 1
        assert abandoned.reason.startswith("1 of 3 updates in after 600 s, 2 are needed; missing: own-")
        for learner in mute:
            await learner.kill()
            leaves(cluster, learner.name)
        for name in "bc":
            join(cluster, name)
        await cluster.until(lambda: len(cluster.seen(LearnerJoined)) == 5, "they are not back")
        back.set()
        clock.turn(4 * DEADLINE_S)  # for twice as long as it cost, others come before them
        await cluster.committed(2)

    cluster = play(scenario, QUORUM)
    tries = Counter(event.round for event in cluster.seen(RoundStarted))
    given_up = Counter(event.round for event in cluster.seen(RoundAbandoned))
    assert given_up[1] >= 1
    assert tries == Counter({1: 1, 2: 1}) + given_up
    assert [event.round for event in cluster.seen(RoundCommitted)] == [1, 2]


def test_an_update_counts_once_a_round_and_learner() -> None:
    cluster = play(train)
    counted = [(event.round, event.learner_id) for event in cluster.seen(UpdateAccepted)]
    assert len(counted) == len(set(counted)) == 6
    assert cluster.seen(LearnerLeft) == []
