"""Seconds to 94 % test accuracy on CIFAR-10: one leader, one learner, deltas each epoch.

The network and peak rate of D. Page's DAWNBench entry (24 epochs to 94 %), with label smoothing in place of cutout.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.fleet import set_flags
from benchmarks.gpu.job import Job
from benchmarks.result import Figure, Result, SkippedError
from benchmarks.spread import Spread
from scripts.children import Program, run_together
from scripts.demo import free_port
from utils.datasets import find_cifar10

TARGET = 0.94
_RECIPE: Mapping[str, object] = {
    "exchange": "delta",
    "train.local_epochs": 1,
    "train.schedule": "onecycle",
    "train.warmup": 0.2,
    "train.lr": 0.4,
    "train.label_smoothing": 0.2,
    "keep_checkpoints": 1,
    "web.listen": "",
    "log.level": "debug",
    "log.format": "json",
}
_FULL = {"model.name": "resnet9-w64", "train.batch_size": 512, "train.dtype": "bfloat16", "rounds": 40}
_QUICK = {"model.name": "resnet9-w8", "train.batch_size": 32, "train.dtype": "float32", "rounds": 2}


class NotReachedError(Exception):
    """The run ended below the target."""


def measure(job: Job) -> Result:
    """From the first round's start to the first evaluation that reaches the target; quick: to any, on drawn images."""
    if not job.quick and not (job.data and find_cifar10(job.data)):
        raise SkippedError(
            f"no CIFAR-10 in {job.data or 'any folder named'}: name its folder, make gpu DATA=DIR"
        )
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        events = _train(Path(scratch), job)
    target = 0.0 if job.quick else TARGET
    began = next(event["time"] for event in events if event["event"] == "RoundStarted")
    evaluated = [event for event in events if event["event"] == "Evaluated"]
    reached = [event for event in evaluated if event["metrics"]["accuracy"] >= target]
    if not reached:
        best = max(event["metrics"]["accuracy"] for event in evaluated)
        raise NotReachedError(f"{_FULL['rounds']} epochs ended at {best:.2%} at best, below {TARGET:.0%}")
    return Result(
        entry="accuracy",
        about=f"to a test accuracy of {target:.0%}, {'drawn images' if job.quick else 'CIFAR-10'}; one learner",
        target=None,
        figures=(
            Figure("from the first round's start", "s", Spread.of([reached[0]["time"] - began])),
            Figure("epochs", "", Spread.of([float(reached[0]["round"])])),
            Figure("test accuracy there", "%", Spread.of([100 * reached[0]["metrics"]["accuracy"]])),
        ),
        ratios={},
    )


def _train(folder: Path, job: Job) -> list[dict[str, Any]]:
    """The events of a run of real processes."""
    address = f"127.0.0.1:{free_port()}"
    settings = {**_RECIPE, **(_QUICK if job.quick else _FULL), **_data(job)}
    run = {"listen": address, "run_dir": folder / "run", "learners": 1}
    leader = Program(
        "leader", (sys.executable, "-m", "leader", *set_flags({**settings, **run})), folder / "leader.log"
    )
    flags = ("--leader", address, "--device", job.device)
    learner = Program("learner", (sys.executable, "-m", "learner", *flags), folder / "learner.log")
    run_together(leader, [learner])
    return list(_events(folder / "leader.log"))


def _data(job: Job) -> Mapping[str, object]:
    if not job.quick:
        return {"data.source": job.data, "evaluation.every": 2, "evaluation.target": TARGET}
    return {"data.source": "synthetic", "data.train_examples": 128, "data.test_examples": 100}


def _events(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            yield json.loads(line)
