"""A simulation ends in the same bits as real processes with the same config and seed, and counts the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import Cluster, Program, Settings, assert_same_bits, succeed

#: What metrics.jsonl says that does not depend on the clock on the wall.
TIMELESS = ("round", "loss", "bytes_up", "bytes_down", "learners", "examples", "lr")

CONTROL: Settings = {
    "train.control_variates": True,
    "train.momentum": 0,
    "train.nesterov": False,
    "train.lr": 0.02,
}
#: Whole updates, as a simulation sends them; in pieces the bits are the same (test_pipelined), the bytes a few more.
GRADIENT: Settings = {"exchange": "gradient", "data.partition": "dirichlet", "train.pipeline": False}


def simulate(cluster: Cluster, settings: Settings, *flags: str) -> Path:
    """The folder of a simulation that ran to its end."""
    folder = cluster.folder / "simulation"
    program = start_simulation(cluster, folder, settings, *flags)
    program.succeed()
    return folder


def start_simulation(
    cluster: Cluster, folder: Path, settings: Settings, *flags: str, faults: str = ""
) -> Program:
    sets = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    command = ["scripts.simulate", "--run-dir", str(folder), "--log-format", "json"]
    return cluster.program("simulation", [*command, *sets, *flags], faults)


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: line.get(key) for key in TIMELESS} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Check that two runs were the same, but for the time that they took."""
    assert_same_bits(one, other)
    assert timeless(one) == timeless(other)


@pytest.mark.parametrize(
    ("learners", "settings"),
    [
        (2, {"data.partition": "dirichlet"}),
        (3, {"data.partition": "dirichlet", "data.shards": 5, "cohort.size": 2}),
        (2, GRADIENT),
        (3, GRADIENT),
        (2, CONTROL),
        (2, {"model.local": "*.1.*", "evaluation.holdout": 0.2, "evaluation.federated_every": 2}),
        (2, {"codec.up": "topk", "codec.down": "int8", "codec.zstd": True, "codec.fraction": 0.1}),
        (2, {"codec.up": "powersgd", "codec.down": "int4", "data.shards": 5, "cohort.size": 3}),
    ],
    ids=[
        *("delta", "cohort", "gradient", "gradient of three", "control variates", "local tensors"),
        *("top-k and int8", "PowerSGD and int4"),
    ],
)
def test_a_simulation_ends_in_the_bits_of_real_processes(
    cluster: Cluster, tiny: Settings, learners: int, settings: Settings
) -> None:
    settings = {**tiny, **settings, "learners": learners, "rounds": 4}
    real = cluster.train(settings, learners)
    assert_same_run(simulate(cluster, settings), real.run_dir)


def test_virtual_learners_bring_the_parts_that_real_ones_would_load(cluster: Cluster, tiny: Settings) -> None:
    parts = cluster.folder / "parts"
    split: list[object] = ["--data", tiny["data.source"], "--kind", "dirichlet", "--alpha", "0.5"]
    files: list[object] = [
        "--parts",
        3,
        "--seed",
        tiny["seed"],
        "--out",
        parts,
        "--plot",
        cluster.folder / "parts.png",
    ]
    command = [sys.executable, "-m", "scripts.partition", *map(str, [*split, *files])]
    subprocess.run(command, check=True, capture_output=True)
    settings = {**tiny, "learners": 3, "rounds": 4, "data.holder": "learner", "cohort.size": 2}
    leader = cluster.leader(settings)
    crew = [
        cluster.learner(
            leader, "--name", f"learner-{i:05d}", "--data", str(parts / f"part-{i:05d}.safetensors")
        )
        for i in range(3)
    ]
    succeed(leader, *crew)
    drawn = simulate(cluster, {**settings, "data.partition": "dirichlet", "data.alpha": 0.5})
    assert_same_run(drawn, leader.run_dir)


def test_workers_and_learners_of_different_speeds_change_no_bit(cluster: Cluster, tiny: Settings) -> None:
    one = simulate(cluster, {**tiny, "rounds": 3, "learners": 5})
    folder = cluster.folder / "other"
    start_simulation(
        cluster, folder, {**tiny, "rounds": 3, "learners": 5}, "--workers", "3", "--speed-spread", "1"
    ).succeed()
    assert_same_run(folder, one)


def test_a_simulation_that_was_stopped_goes_on_to_the_same_bits(cluster: Cluster, tiny: Settings) -> None:
    settings = {**tiny, **CONTROL, "rounds": 12}
    whole = simulate(cluster, settings)
    folder = cluster.folder / "stopped"
    program = start_simulation(cluster, folder, settings, faults="stop@leader.committed:2")
    program.frozen()
    program.signal(signal.SIGINT)
    program.signal(signal.SIGCONT)
    assert program.wait() == 130
    assert len(timeless(folder)) < 12
    resume = ["scripts.simulate", "--resume", str(folder)]
    cluster.program("resumed", resume).succeed()
    assert_same_bits(folder, whole)
