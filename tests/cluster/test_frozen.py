"""Frozen parameters stay where they are: they are never sent or kept, and a learner that has others is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from leader.events import LearnerJoined, RoundCommitted
from model.flat import FlatModel
from scripts import weights
from scripts.cluster import Cluster
from tests.cluster.frozen_task import WIDTH, OnBase, OnOtherBase
from tests.clusters import NOISE, TINY, Settings, join, play
from tests.integration.noise_task import FEATURES
from utils.errors import CheckpointError, ConfigError, IncompatibleError

TASK = "tests.cluster.frozen_task:OnBase"
OTHER = "tests.cluster.frozen_task:OnOtherBase"
FROZEN: Settings = {**TINY, "model.task": TASK}
HEAD = FEATURES + 1
FINGERPRINT = FlatModel(OnBase().build_model(0)).layout.frozen


async def train(cluster: Cluster, task: str = TASK) -> None:
    for name in "ab"[: cluster.config.learners]:
        join(cluster, name, task=task)
    await cluster.finished()


@pytest.mark.parametrize("exchange", ["delta", "gradient"])
def test_what_travels_and_is_kept_is_the_head_alone(exchange: str, tmp_path: Path) -> None:
    settings = {**FROZEN, "exchange": exchange, "train.local_steps": 2 if exchange == "delta" else 1}
    run = play(train, {**settings, "run_dir": tmp_path / "run"})
    assert run.vector.size == HEAD
    of_head = 2 * (4 * HEAD + 2000)  # of both learners, headers and headings with it
    for told in run.seen(RoundCommitted):
        assert max(told.bytes_up, told.bytes_down) < of_head < 4 * WIDTH * FEATURES
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"model.safetensors"} < {path.name for path in kept}
    assert max(path.stat().st_size for path in kept if "checkpoints" in path.parts) < 4 * WIDTH * FEATURES


def test_the_models_file_makes_the_whole_network_with_the_same_base(tmp_path: Path) -> None:
    run = play(train, {**FROZEN, "run_dir": tmp_path / "run"})
    file = tmp_path / "run" / "model.safetensors"
    network = OnBase().build_model(5)
    missing, unexpected = network.load_state_dict(load_file(file), strict=False)
    assert (sorted(missing), unexpected) == (["0.0.bias", "0.0.weight", "0.2.bias", "0.2.weight"], [])
    assert FlatModel(network).vector.numpy().tobytes() == run.vector.tobytes()
    base = OnBase().build_model(0).get_parameter("0.0.weight")
    assert torch.equal(network.get_parameter("0.0.weight"), base)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["frozen"] == FINGERPRINT

    on = {**FROZEN, "model.weights": file, "rounds": 1}
    assert play(train, on).seen(RoundCommitted)
    with pytest.raises(ConfigError, match=r"was trained beside other frozen parameters .* on the same base"):
        play(train, {**on, "model.task": OTHER})


@pytest.mark.parametrize(
    ("leads", "learns", "message"),
    [
        (
            TASK,
            OTHER,
            "a has other frozen parameters than this run .* from copies of one file, or from a seed",
        ),
        (TASK, NOISE, "a has no frozen parameters, this run's model does: start it with the run's --task"),
        (NOISE, TASK, "a has a model with frozen parameters, this run's has none"),
    ],
)
def test_a_learner_with_another_base_is_refused_before_it_is_given_work(
    leads: str, learns: str, message: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", task=learns))
        with pytest.raises(IncompatibleError, match=message):
            raise error
        assert not cluster.seen(LearnerJoined)

    play(scenario, {**FROZEN, "model.task": leads, "learners": 1})


def test_a_leader_with_nothing_but_the_heads_file_knows_whose_base_fits(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    assert weights.main(["--task", TASK, "--out", str(start), "--seed", "7"]) == 0
    assert start.stat().st_size < 4 * WIDTH * FEATURES

    async def scenario(cluster: Cluster) -> None:
        assert isinstance(await cluster.failed(join(cluster, "c", task=OTHER)), IncompatibleError)
        await train(cluster)

    alone = play(scenario, {**FROZEN, "model.task": "", "model.name": "", "model.weights": start})
    usual = play(train, FROZEN).vector  # whose order is the model's
    layout = alone.app.layout
    found = [alone.vector[entry.start : entry.start + entry.size] for entry in layout.entries[::-1]]
    assert [entry.name for entry in layout.entries] == ["1.bias", "1.weight"]
    assert np.concatenate(found).tobytes() == usual.tobytes()


def test_a_resumed_run_goes_on_with_the_same_base_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        learners = [join(cluster, name, task=TASK) for name in "ab"]
        await cluster.committed(1)
        await cluster.leader.kill()
        for learner in learners:
            await learner.kill()
        with monkeypatch.context() as changed:
            changed.setattr(OnBase, "BASE", OnOtherBase.BASE)
            with pytest.raises(CheckpointError, match="trained beside other frozen parameters"):
                await cluster.resume()
        await cluster.resume()
        await train(cluster)

    resumed = play(scenario, {**FROZEN, "run_dir": tmp_path / "run"})
    assert resumed.vector.tobytes() == play(train, FROZEN).vector.tobytes()
