"""Asynchronous runs over a restart of the leader: what was counted is counted again, to the same bits."""

from __future__ import annotations

import pytest

from leader.events import UpdateAccepted
from leader.storage.checkpoint import checkpoints
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play

ROUNDS = 8
BUFFERED: Settings = {
    **TINY,
    "learners": 3,
    "rounds": ROUNDS,
    "buffer.size": 3,
    "keep_checkpoints": 20,
    "cohort.lease_s": 100,
}


def join_all(cluster: Cluster) -> None:
    for name in "abc":
        join(cluster, name)


@pytest.mark.usefixtures("no_grace")
def test_a_restarted_leader_fills_its_buffers_as_the_killed_one_had_and_again_from_any_checkpoint() -> None:
    async def scenario(cluster: Cluster) -> None:
        join_all(cluster)
        await cluster.committed(2)
        await cluster.event(UpdateAccepted, round=4)
        await cluster.leader.kill()
        log = cluster.run_dir / "buffers.jsonl"
        told = log.read_bytes()
        await cluster.resume()
        await cluster.finished()
        whole, digest = log.read_bytes(), cluster.model_sha256
        assert whole.startswith(told)
        assert whole.count(b'"counted"') == 3 * ROUNDS
        for after in (3, 0):  # in the middle, with work from before it, and at the beginning
            for path in checkpoints(cluster.run_dir / "checkpoints")[: ROUNDS - after]:
                path.unlink()
            await cluster.resume()
            assert cluster.app.resumed_round == after
            join_all(cluster)
            await cluster.finished()
            assert cluster.model_sha256 == digest
            assert log.read_bytes() == whole

    play(scenario, BUFFERED)
