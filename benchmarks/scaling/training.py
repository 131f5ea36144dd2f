"""Real training with 1 to 8 learner processes on this machine: what the cores give, and what the leader takes."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import TOY_DATA, clock_s, cpu_s, probed_leader
from benchmarks.probe import read_probe
from benchmarks.spread import Spread
from scripts.children import Program, run_together

MODEL, BATCH, STEPS, WARMUP = "resnet9-w16", 32, 16, 1


@dataclass(frozen=True)
class TrainingRun:
    """Rounds of one delta exchange each, in which every learner makes STEPS steps on one thread."""

    learners: int
    round_s: Spread
    images_per_s: float  # of all learners together, from commit to commit
    leader_cpu_share: float  # of one core


def run_training(learners: int, rounds: int) -> TrainingRun:
    """Train; raises ProgramFailedError with the end of the log of a process that failed."""
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder = Path(scratch)
        settings = {
            **TOY_DATA,
            "model.name": MODEL,
            "rounds": rounds + WARMUP,
            "learners": learners,
            "train.batch_size": BATCH,
            "train.local_steps": STEPS,
            "data.train_examples": learners * BATCH * STEPS,
        }
        leader, address = probed_leader(folder, settings)
        run_together(leader, [_learner(folder, address, number) for number in range(learners)])
        _, *commits = read_probe(folder / "leader.probe")
        lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        examples = sum(json.loads(line)["examples"] for line in lines[1 + WARMUP :])
        clock = commits[-1].clock_s - commits[WARMUP].clock_s
        return TrainingRun(
            learners=learners,
            round_s=clock_s(commits[WARMUP:]),
            images_per_s=examples / clock,
            leader_cpu_share=cpu_s(commits[WARMUP:]).median / clock_s(commits[WARMUP:]).median,
        )


def _learner(folder: Path, address: str, number: int) -> Program:
    command = (
        sys.executable,
        "-m",
        "learner",
        "--leader",
        address,
        "--threads",
        "1",
        "--name",
        f"scale-{number}",
    )
    return Program(f"learner {number}", command, folder / f"learner-{number}.log")
