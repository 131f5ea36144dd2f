"""A study: many simulated runs that are compared, two at a time, going on where an earlier call was stopped."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.fleet import set_flags
from benchmarks.result import add_folder_flags, check_published_whole
from utils.datasets import find_cifar10
from utils.errors import DataError, FlockstepError


class TrialFailedError(FlockstepError):
    """A run of a study ended without a result."""


@dataclass(frozen=True)
class Trial:
    """One run: `python -m scripts.simulate` with these settings, in the folder `name` of the study."""

    name: str
    settings: Mapping[str, object]
    flags: tuple[str, ...] = ()
    program: str = "scripts.simulate"

    def command(self, data: Path, folder: Path) -> list[str]:
        """The command line, without the Python in front of it; goes on with a run that was begun."""
        path = folder / self.name
        if (path / "checkpoints").is_dir() and any((path / "checkpoints").iterdir()):
            return ["-m", self.program, *self.flags, "--resume", str(path), "--log-format", "plain"]
        settings = {**self.settings, "data.source": data, "run_dir": path, "log.format": "plain"}
        return ["-m", self.program, *self.flags, *set_flags(settings)]


@dataclass(frozen=True)
class Curve:
    """What one run came to, round by round where it was evaluated."""

    accuracy: float  # of the last round's model on the test images, 0..1; NaN if the run ended before
    seconds: float
    rounds: Sequence[int] = field(default_factory=tuple)
    accuracies: Sequence[float] = field(default_factory=tuple)
    megabytes: Sequence[float] = field(default_factory=tuple)  # moved so far, both ways


def parse_study(
    argv: Sequence[str] | None,
    prog: str,
    about: str | None,
    quick: str,
    add_flags: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> argparse.Namespace:
    """The options of a study's command line; `add_flags` adds those that not every study has."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with CIFAR-10; data")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder that the runs are kept in; runs"
    )
    add_folder_flags(parser, "that of the runs")
    add_flags(parser)
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time, one thread each; 2")
    options = parser.parse_args(argv)
    check_published_whole(parser, options)
    return options


def run_study(trials: Sequence[Trial], folder: Path, options: argparse.Namespace, console: Console) -> int:
    """Run the trials that are not done yet; returns the exit code, and says what went wrong if it is not 0."""
    try:
        if find_cifar10(options.data) is None:
            raise DataError(f"no CIFAR-10 in {options.data}; name its folder with --data DIR")
        run_trials(trials, options.data, folder, console, at_once=options.at_once)
    except FlockstepError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on here")
        return 130
    return 0


def run_trials(trials: Sequence[Trial], data: Path, folder: Path, console: Console, *, at_once: int) -> None:
    """Run the trials that are not done yet; raises TrialFailedError with the end of a failed one's output."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [trial for trial in trials if not has_ended(folder / trial.name)]
    console.print(f"{len(trials) - len(todo)} of {len(trials)} runs are done already", highlight=False)
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(_run, trial, data, folder) for trial in todo]
        try:
            for number, (trial, done) in enumerate(zip(todo, running, strict=True), 1):
                done.result()
                curve = read_curve(folder / trial.name)
                console.print(
                    f"{number}/{len(todo)} {trial.name}: {curve.accuracy:.2%} in {curve.seconds:.0f} s",
                    highlight=False,
                )
        except BaseException:
            for waiting in running:
                waiting.cancel()
            raise


def _run(trial: Trial, data: Path, folder: Path) -> None:
    path = folder / trial.name
    log = folder / f"{trial.name}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        code = subprocess.run(
            [sys.executable, *trial.command(data, folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        ).returncode
    if code or not has_ended(path):
        end = log.read_text()[-2000:].splitlines()
        raise TrialFailedError(f"{trial.name} failed; its output is in {log}:", *end)


def has_ended(path: Path) -> bool:
    """Whether the run in this folder is over; one that a signal stopped, such as Ctrl-C, goes on."""
    if not (path / "summary.json").exists():
        return False
    stopped = json.loads((path / "summary.json").read_text(encoding="utf-8"))["stopped"] or ""
    return not stopped.startswith("stopped by SIG")


def read_curve(path: Path) -> Curve:
    """The run in this folder."""
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    points = list(_points(path / "metrics.jsonl"))
    return Curve(
        math.nan if summary["test_accuracy"] is None else summary["test_accuracy"],
        summary["seconds"],
        [point["round"] for point in points if "test_accuracy" in point],
        [point["test_accuracy"] for point in points if "test_accuracy" in point],
        [point["megabytes"] for point in points if "test_accuracy" in point],
    )


def _points(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file with the bytes moved so far."""
    moved = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        moved += record["bytes_up"] + record["bytes_down"]
        yield {**record, "megabytes": moved / 1e6}
