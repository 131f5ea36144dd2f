"""One run of the codec study: a real leader and two real learners, each a process with one thread."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import set_flags
from benchmarks.outcome.study import has_ended
from scripts.children import Program, run_together
from scripts.demo import free_port

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Outcome:
    """What one run came to; bytes are those that the leader's counters saw on its streams."""

    accuracy: float  # of the last model on the test images, 0..1
    up: int
    down: int
    seconds: float  # of training, from the first round's start to the last one's commit


def run_folder(folder: Path, name: str, settings: Mapping[str, object]) -> Path:
    """Where this run is kept: another folder for other settings."""
    told = json.dumps(sorted((key, str(value)) for key, value in settings.items()))
    return folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def run_once(path: Path, settings: Mapping[str, object], parts: Sequence[Path]) -> Outcome:
    """Train in the folder `path`, one learner a part; a run that is done there is only read.

    The learners hold their data, so that all bytes are the model's. Raises ProgramFailedError with the end
    of the log of a process that failed, and StoppedError on a signal.
    """
    if not has_ended(path / "run"):
        shutil.rmtree(path, ignore_errors=True)  # one that was stopped half way is made anew
        path.mkdir(parents=True)
        _train(path, settings, parts)
    return read_outcome(path / "run")


def read_outcome(run: Path) -> Outcome:
    """The finished run in this folder."""
    summary = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
    return Outcome(summary["test_accuracy"], summary["bytes_up"], summary["bytes_down"], summary["seconds"])


def _train(path: Path, settings: Mapping[str, object], parts: Sequence[Path]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assignments = {**settings, "listen": address, "learners": len(parts), "run_dir": path / "run"}
    leader = _program("leader", path, "leader", *set_flags(assignments))
    learners = [
        _program(
            name, path, "learner", "--leader", address, "--threads", "1", "--name", name, "--data", str(part)
        )
        for name, part in ((f"learner-{number}", part) for number, part in enumerate(parts, 1))
    ]
    run_together(leader, learners)


def _program(name: str, path: Path, module: str, *flags: str) -> Program:
    # `env` sets the variable for this one process.
    return Program(
        name, ("env", "OMP_NUM_THREADS=1", sys.executable, "-m", module, *flags), path / f"{name}.log"
    )
