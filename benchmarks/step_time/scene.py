"""One scene of the step time benchmark: a link, a batch and a dtype, and the contenders that take turns there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.step_time.contenders import LEADER_DATA, LEARNER_DATA, LEARNERS, Compute, Contender, Stage
from benchmarks.step_time.gate import GATE, Gate, Report
from benchmarks.step_time.link import LINKS, Usage, usage
from scripts.children import Program, ProgramFailedError, StoppedError
from utils.datasets.data_file import save_dataset
from utils.datasets.synthetic import synthetic_shapes

_EXAMPLES = 512  # a learner
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Link:
    """What lies between each learner and the leader, or between the ranks."""

    name: str
    bytes_per_s: float | None = None  # each direction; None: loopback as it is
    delay_s: float = 0.0  # each direction


@dataclass(frozen=True)
class Block:
    """What some steps of one contender in a row took."""

    steps: tuple[float, ...]  # seconds
    cpu_s: float  # a step, all its processes and their threads
    used: Usage  # of one link, a step
    border_s: float | None = None  # from the last step to the commit, in a design that has one


@dataclass
class Company:
    """The running processes of a scene; however the scene ends, none is left."""

    environment: Mapping[str, str]
    running: dict[Program, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, program: Program) -> None:
        """Start one."""
        assert program.log is not None
        with program.log.open("wb") as log:
            self.running[program] = subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                process_group=0,
            )

    def check(self) -> None:
        """Raise ProgramFailedError if one has ended."""
        for program, process in self.running.items():
            if (code := process.poll()) is not None:
                raise ProgramFailedError(program, f"ended with code {code} in the middle of the benchmark")

    def cpu_s(self, programs: Sequence[Program]) -> float:
        """CPU time of these so far, in seconds."""
        times = (psutil.Process(self.running[program].pid).cpu_times() for program in programs)
        return sum(time.user + time.system for time in times)

    def end(self) -> None:
        """Kill what runs: there is nothing to keep."""
        for process in self.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait()


def run_scene(
    link: Link, compute: Compute, contenders: Sequence[Contender], *, steps: int, blocks: int
) -> dict[str, list[Block]]:
    """`blocks` blocks of `steps` timed steps of every contender in turn, by the name of what was measured.

    Raises ProgramFailedError with the end of the log of a process that failed, and StoppedError on a signal.
    """
    with ExitStack() as stack:
        stack.enter_context(_stoppable())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flockstep-benchmark-")))
        gate = stack.enter_context(Gate())
        links = stack.enter_context(_links(link))
        _write_data(folder)
        environment = {**os.environ, **_ONE_THREAD, GATE: gate.address}
        company = Company({**environment, LINKS: links} if links else environment)
        stack.callback(company.end)
        stage = Stage(compute, steps, folder, links)
        programs = {contender: contender.programs(stage) for contender in contenders}
        for program in (program for own in programs.values() for program in own):
            company.start(program)
        turns = [(contender, *turn) for contender in contenders for turn in contender.orders.items()]
        gate.admit([party for contender in contenders for party in contender.parties], company.check)
        measured: dict[str, list[Block]] = {name: [] for _, name, _ in turns}
        for _ in range(blocks):
            for contender, name, order in turns:
                company.check()
                used, cpu_s = usage(links), company.cpu_s(programs[contender])
                reports = gate.run(contender.parties, order, company.check)
                cpu_s = company.cpu_s(programs[contender]) - cpu_s
                measured[name].append(_block(reports, cpu_s, usage(links).since(used), contender.links))
        return measured


def _block(reports: Sequence[Report], cpu_s: float, used: Usage, links: int) -> Block:
    """A step is done when its slowest party is; the step that warms up has its share of the costs."""
    steps = tuple(max(moments) for moments in zip(*(report["steps"] for report in reports), strict=True))
    made = len(steps) + 1
    a_step = Usage(used.bytes_up // made // links, used.bytes_down // made // links, used.cpu_s / made)
    return Block(steps, cpu_s / made, a_step, reports[0].get("border_s"))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns signals that would leave the processes behind into StoppedError."""

    def stop(number: int, frame: object) -> None:
        raise StoppedError(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_data(folder: Path) -> None:
    """The leader's data, and as much as one learner gets of it."""
    save_dataset(synthetic_shapes(LEARNERS * _EXAMPLES, 1).train, folder / LEADER_DATA)
    save_dataset(synthetic_shapes(_EXAMPLES, 1).train, folder / LEARNER_DATA)


@contextmanager
def _links(link: Link) -> Iterator[str | None]:
    """Where to ask for links, in a process of its own; None for loopback."""
    if link.bytes_per_s is None:
        yield None
        return
    flags = ("--rate", str(link.bytes_per_s), "--delay", str(link.delay_s))
    command = (sys.executable, "-m", "benchmarks.step_time.link", *flags)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()
