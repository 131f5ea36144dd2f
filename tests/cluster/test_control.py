"""How learners are told about work makes no difference to the result."""

from __future__ import annotations

import socket

from leader.events import LearnerJoined, RoundCommitted
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train


def closed_address() -> str:
    """HOST:PORT on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


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
