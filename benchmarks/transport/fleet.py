"""The processes of the transport benchmark: one leader, some learners, and what a transfer by all of them cost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.transport.wire import MEMCPY, Endpoint, Job, Taken


@dataclass(frozen=True)
class Cost:
    """What it took until every learner had moved one model."""

    seconds: float
    learner_cpu_s: float  # of all learners together
    leader_cpu_s: float


class Process:
    """A program that answers each line with one."""

    def __init__(self, module: str, folder: Path) -> None:
        command = (sys.executable, "-m", module, str(folder))
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._name = module

    def tell(self, line: str) -> None:
        """Write a line."""
        _pipe(self.popen.stdin).write(line)
        _pipe(self.popen.stdin).flush()

    def hear(self) -> str:
        """Read a line; raises RuntimeError where the program has ended."""
        if line := _pipe(self.popen.stdout).readline():
            return line
        raise RuntimeError(f"{self._name} ended; see its error above")


class Fleet:
    """One leader and its learners, ready."""

    def __init__(self, leader: Process, learners: Sequence[Process]) -> None:
        self._leader = leader
        self._learners = learners
        found = [Endpoint(**endpoint) for endpoint in json.loads(leader.hear())]
        self._endpoints = {(endpoint.way, endpoint.tls): endpoint for endpoint in found}
        for learner in learners:
            learner.hear()

    def measure(self, way: str, direction: str, tls: bool, learners: int) -> Cost:
        """Let that many learners make one transfer each, at once."""
        endpoint = Endpoint(MEMCPY, False, 0) if way == MEMCPY else self._endpoints[way, tls]
        job, crew = Job(endpoint, direction).line(), self._learners[:learners]
        before = self._leader_cpu()
        for learner in crew:
            learner.tell(job)
        taken = [Taken(**json.loads(learner.hear())) for learner in crew]
        seconds = max(one.ended for one in taken) - min(one.began for one in taken)
        return Cost(seconds, sum(one.cpu_s for one in taken), self._leader_cpu() - before)

    def _leader_cpu(self) -> float:
        self._leader.tell("\n")
        return float(self._leader.hear())


@contextmanager
def open_fleet(folder: Path, learners: int) -> Iterator[Fleet]:
    """The processes, which share a folder of trust; none is left running."""
    with ExitStack() as stack:
        leader = stack.enter_context(_running("benchmarks.transport.leader", folder))
        crew = [
            stack.enter_context(_running("benchmarks.transport.learner", folder)) for _ in range(learners)
        ]
        yield Fleet(leader, crew)


@contextmanager
def _running(module: str, folder: Path) -> Iterator[Process]:
    process = Process(module, folder)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
