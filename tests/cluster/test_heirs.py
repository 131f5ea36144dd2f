"""The shard of a learner that dies goes to another, and on from there should that one die too."""

from __future__ import annotations

from leader.events import LearnerLeft, RoundCommitted
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, Settings, leaves, play

THREE: Settings = {**SHARDS, "learners": 3, "rounds": 6}


async def undisturbed(cluster: Cluster) -> None:
    for name in "abc":
        cluster.learner(name)
    await cluster.finished()


async def one_after_the_other(cluster: Cluster) -> None:
    nodes = {name: cluster.learner(name) for name in "abc"}
    for round_ in (1, 2):
        await cluster.committed(round_)
        workforce = cluster.app.coordinator.workforce
        most = max(workforce, key=lambda member: list(workforce.holders().values()).count(member.learner_id))
        await nodes[most.name].kill()
        leaves(cluster, most.name)
    await cluster.finished()


def test_an_heir_that_dies_in_its_turn_leaves_all_its_shards_and_the_bits_stay() -> None:
    run = play(one_after_the_other, THREE, data=IMAGES)
    assert len(run.seen(LearnerLeft)) == 2
    assert [run.seen(RoundCommitted)[at].learners for at in (0, -1)] == [3, 1]
    assert run.model_sha256 == play(undisturbed, THREE, data=IMAGES).model_sha256
