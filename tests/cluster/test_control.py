"""How learners are told about work makes no difference to the result."""

from __future__ import annotations

import asyncio

import pytest

from leader.events import LearnerJoined, RoundCommitted, RoundStarted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, TIMEOUT_S, TINY, Settings, join, play, train
from tests.strangers import Stranger, update_of
from tests.tools.ports import closed_address


def test_a_learner_behind_nat_and_one_that_is_dialled_work_together() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        join(cluster, "b", network_addr=closed_address())
        await cluster.finished()

    cluster = play(scenario)
    joined = {event.name: event.control for event in cluster.seen(LearnerJoined)}
    assert joined == {"a": "session", "b": "dialled"}
    assert [event.learners for event in cluster.seen(RoundCommitted)] == [2] * 3
    assert cluster.model_sha256 == play(train).model_sha256


def test_a_dialled_learner_stays_through_a_restart_of_the_leader() -> None:
    settings: Settings = {**TINY, "exchange": "gradient"}

    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        join(cluster, "b", network_addr=closed_address())
        await cluster.committed(1)
        await cluster.resume(cohort__lease_s=20)
        await cluster.finished()

    cluster = play(scenario, {**settings, "cohort.lease_s": 2})
    assert cluster.model_sha256 == play(train, settings).model_sha256


@pytest.mark.parametrize("more", [{"data.shards": 2}, {"buffer.size": 2}])
def test_a_plain_learner_that_owes_another_update_of_a_version_gets_that_at_once(more: Settings) -> None:
    """Of its other shard, or where a buffer takes several of one learner: until then there is no newer version."""

    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with Stranger(cluster.address) as plain:
            await plain.stub.RegisterLearner(leader_pb2.LearnerInfo(network_addr="a"), timeout=TIMEOUT_S)
            await cluster.event(RoundStarted, round=1)
            for _ in range(4):
                async with asyncio.timeout(20):
                    assert await plain.model()
                assert (await plain.send(file)).success
            await cluster.committed(2)

    play(scenario, {**SHARDS, "learners": 1, "rounds": 2, **more}, data=IMAGES)
