"""The coordinator through whole rounds: when they close, when they are abandoned, and what stops a run."""

from __future__ import annotations

import asyncio
from collections import Counter

from leader.events import LearnerLeft, RoundAbandoned, RoundCommitted, RoundStarted, UpdateAccepted
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train

#: A learned deadline would need a past; this one is short, and the round closes on two of three.
QUORUM: Settings = {**TINY, "learners": 3, "rounds": 2, "cohort.quorum": 0.6, "cohort.deadline_s": 0.5}


class Mute(Worker):
    """Trains, and never sends."""

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        await asyncio.Event().wait()


def test_a_round_closes_on_its_quorum_at_the_deadline_without_the_one_that_is_late() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "c", worker=Mute)
        for name in "ab":
            join(cluster, name)
        await cluster.committed(2)

    cluster = play(scenario, QUORUM)
    assert [event.learners for event in cluster.seen(RoundCommitted)] == [2, 2]
    assert [event.examples for event in cluster.seen(RoundCommitted)] == [48, 48]
    assert cluster.seen(RoundCommitted)[0].seconds >= 0.5
    # What has never come is not waited for again at once.
    assert [event.learners for event in cluster.seen(RoundStarted)] == [3, 2]


def test_a_round_without_its_quorum_is_abandoned_and_tried_again_until_it_has_it() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        mute = [join(cluster, name, worker=Mute) for name in "bc"]
        abandoned = await cluster.event(RoundAbandoned)
        assert abandoned.round == 1
        assert abandoned.reason.startswith("1 of 3 updates in after 0.5 s, 2 are needed; missing: own-")
        for learner in mute:
            await learner.kill()
        for name in "bc":  # their names are kept for those that were killed, for a quarter of a lease
            join(cluster, name)
        await cluster.committed(2)

    cluster = play(scenario, {**QUORUM, "cohort.lease_s": 4})
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
