"""The mean of the models of a run's last rounds: what is tested and left behind, while training goes on without it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from safetensors.numpy import load_file

from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, TINY, join, play, train
from utils.vector import Vector

SETTINGS = {**TINY, "rounds": 5}
HALF = {**SETTINGS, "server.average": 0.5, "keep_checkpoints": 9}  # of five rounds the last two


def models(cluster: Cluster) -> list[Vector]:
    """What the checkpoints say that learners trained from, and last the mean."""
    kept = [load_file(path) for path in sorted((cluster.run_dir / "checkpoints").glob("round-*"))]
    return [*(one["vector"] for one in kept), kept[-1]["average"]]


def test_the_result_is_the_mean_of_the_last_rounds_models_and_training_is_the_same() -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        *trained, mean = models(cluster)
        assert trained[-1].tobytes() == plain.vector.tobytes()
        exact = np.mean([trained[-2], trained[-1]], axis=0, dtype=np.float64)
        np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-9)
        assert mean.tobytes() != trained[-1].tobytes()
        assert cluster.summary["model_sha256"] == hashlib.sha256(mean.tobytes()).hexdigest()
        left = load_file(cluster.run_dir / "model.safetensors")
        assert sorted(np.concatenate([one.ravel() for one in left.values()])) == sorted(mean)

    plain = play(train, SETTINGS)
    play(scenario, HALF)


def test_before_its_rounds_there_is_no_mean_and_a_longer_run_begins_it_anew() -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        assert "average" not in load_file(cluster.run_dir / "checkpoints" / "round-00000003.safetensors")
        await cluster.resume(rounds=12)
        await train(cluster)
        *trained, mean = models(cluster)
        np.testing.assert_allclose(mean, np.mean(trained[-6:], axis=0), rtol=1e-5, atol=1e-8)
        assert "average" not in load_file(cluster.run_dir / "checkpoints" / "round-00000006.safetensors")

    play(scenario, HALF)


def test_a_leader_killed_among_them_comes_to_the_same_bits() -> None:
    async def whole(cluster: Cluster) -> None:
        await train(cluster)
        hashes.append(cluster.summary["model_sha256"])

    async def cut(cluster: Cluster) -> None:
        for name in "ab":
            join(cluster, name)
        await cluster.committed(4)
        await cluster.leader.kill()
        await cluster.resume()
        await cluster.finished()
        hashes.append(cluster.summary["model_sha256"])

    hashes: list[str] = []
    for scenario in (whole, cut):
        play(scenario, HALF)
    assert hashes[0] == hashes[1]


def test_it_is_the_mean_that_is_tested() -> None:
    def losses(**more: object) -> list[float]:
        async def scenario(cluster: Cluster) -> None:
            for name in "ab":
                cluster.learner(name)
            await cluster.finished()
            told.extend(line["test_loss"] for line in cluster.metrics)

        told: list[float] = []
        settings = {**SHARDS, "rounds": 4, "evaluation.every": 1, **more}
        play(scenario, settings, data=replace(IMAGES, test=IMAGES.train))
        return told

    plain, averaged = losses(), losses(**{"server.average": 0.5})
    assert averaged[:3] == plain[:3]  # the third is the mean of one
    assert averaged[3] != plain[3]
