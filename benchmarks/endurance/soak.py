"""The soak: thousands of rounds with learners coming and going; nothing in the leader may grow."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import small_model
from benchmarks.fleet import TOY_DATA, probed_leader
from benchmarks.probe import PROBE_FILE, Reading, read_probe
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from scripts.children import Program, ProgramFailedError

LEARNERS, QUICK_LEARNERS = 4, 2
_WARMUP, _QUICK_WARMUP = 100, 20  # rounds that the leader may grow in
_EDGE, _QUICK_EDGE = 50, 20  # rounds at both ends that are compared
_PATIENCE_S = 120.0
_STAY_S = 4.0  # between one departure and the next


def measure(quick: bool) -> Result:
    """How the leader's resources change from the first rounds after the warm-up to the last."""
    rounds, warmup, edge = (45, _QUICK_WARMUP, _QUICK_EDGE) if quick else (2000, _WARMUP, _EDGE)
    learners = QUICK_LEARNERS if quick else LEARNERS
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        readings, joins = soak(Path(scratch), rounds, learners)
    early, late = readings[warmup : warmup + edge], readings[-edge:]

    def change(of: Callable[[Reading], int]) -> float:
        return statistics.median(map(of, late)) / statistics.median(map(of, early))

    steady = readings[warmup:]
    return Result(
        entry="soak",
        about=f"{rounds} rounds of {small_model.PARAMETERS} parameters, {learners} learners, {joins} joins",
        target=Target(f"resident set, last rounds to rounds from {warmup} on", "", change(_resident), 1.05),
        figures=(
            Figure("resident set", "MB", Spread.of([r.resident_bytes / 1e6 for r in steady])),
            Figure("open descriptors", "", Spread.of([r.descriptors for r in steady])),
            Figure("threads", "", Spread.of([r.threads for r in steady])),
            Figure("asyncio tasks", "", Spread.of([r.tasks for r in steady])),
        ),
        ratios={
            "descriptors, last to early": change(lambda r: r.descriptors),
            "threads, last to early": change(lambda r: r.threads),
            "tasks, last to early": change(lambda r: r.tasks),
        },
    )


def _resident(reading: Reading) -> int:
    return reading.resident_bytes


def soak(folder: Path, rounds: int, learners: int) -> tuple[list[Reading], int]:
    """Train the rounds while one learner after the other leaves and comes back; readings and joins."""
    settings = {"model.name": small_model.NAME, "rounds": rounds, "learners": learners, **TOY_DATA}
    leader, address = probed_leader(folder, settings, whole=True)
    with _started(leader) as process:
        over = threading.Event()

        def watch() -> None:
            process.wait()
            over.set()

        threading.Thread(target=watch, daemon=True).start()
        joins = _come_and_go(address, over, learners)
        if process.wait() != 0:
            raise ProgramFailedError(leader, f"ended with exit code {process.returncode}")
    return read_probe(folder / "leader.probe")[1:], joins


def _come_and_go(address: str, over: threading.Event, learners: int) -> int:
    """Keep learners running; each time a new one has come the oldest leaves, until it is over."""
    crew: list[_Learner] = []
    joins = 0
    try:
        while not over.is_set():
            joins += 1
            crew.append(_Learner(address, joins))
            if crew[-1].wait_until_there(over) and len(crew) > learners:
                crew.pop(0).leave()
                over.wait(_STAY_S)
    finally:
        for learner in crew:
            learner.end()
    return joins


class _Learner:
    """One learner process, whose log a thread reads to its end."""

    def __init__(self, address: str, number: int) -> None:
        command = (sys.executable, "-m", "benchmarks.noop_learner", "--leader", address)
        self._process = subprocess.Popen(
            ("env", f"{PROBE_FILE}={os.devnull}", *command, "--name", f"learner-{number}"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._there = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "registered as learner" in line:
                self._there.set()
        self._there.set()  # it ended, so nobody need wait any longer

    def wait_until_there(self, over: threading.Event) -> bool:
        """Wait until it is registered; False if the run is over."""
        self._there.wait(_PATIENCE_S)
        return not over.is_set()

    def leave(self) -> None:
        """Let it say goodbye and end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_PATIENCE_S)

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def _started(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    assert program.log is not None
    with program.log.open("wb") as log:
        process = subprocess.Popen(program.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
