"""The best model so far, and a disk that is full while it is written."""

from __future__ import annotations

from dataclasses import replace

from leader.events import Evaluated, RoundCommitted
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, play
from utils.errors import CheckpointError


def test_a_run_whose_best_model_cannot_be_written_ends_soon_and_goes_on_when_it_is_resumed() -> None:
    async def scenario(cluster: Cluster) -> None:
        obstacle = cluster.run_dir / "best.safetensors.partial"
        obstacle.mkdir()
        for name in "ab":
            cluster.learner(name)
        error = await cluster.failed(cluster.leader)
        assert isinstance(error, CheckpointError)
        assert "best.safetensors: Is a directory; free the disk or fix the folder, then resume" in str(error)
        last = cluster.seen(RoundCommitted)[-1].round
        assert last < 1000
        assert not cluster.seen(Evaluated)
        obstacle.rmdir()
        await cluster.resume(rounds=last + 1)
        for name in "cd":
            cluster.learner(name)
        await cluster.finished()
        assert [event.round for event in cluster.seen(Evaluated)][-1] == last + 1
        assert [line["round"] for line in cluster.metrics] == list(range(1, last + 2))
        assert cluster.summary["best"] is not None

    settings = {**SHARDS, "rounds": 1000, "model.name": "resnet20", "evaluation.every": 1}
    play(scenario, settings, data=replace(IMAGES, test=IMAGES.train))
