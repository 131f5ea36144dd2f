"""A fleet for one measurement: a real leader and real learners, each a process of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from benchmarks.probe import PROBE_FILE, WHOLE, Reading, read_probe
from benchmarks.spread import Spread
from benchmarks.trust_folder import choose_way
from scripts.children import Program, run_together
from scripts.demo import free_port
from tests.tools.proxy import Proxy
from utils.datasets.data_file import save_dataset
from utils.datasets.synthetic import synthetic_shapes

#: Data that costs nothing: a few drawn images, tested on once at the end of the run.
TOY_DATA: Mapping[str, object] = {
    "data.source": "synthetic",
    "data.train_examples": 64,
    "data.test_examples": 10,
    "evaluation.every": 0,
}


_LEADER = "benchmarks.small_leader"


@dataclass(frozen=True)
class FleetRun:
    """What the processes of one run were seen to do; the first rounds, which warm up, are left out."""

    round_s: Spread  # from commit to commit
    leader_cpu_s: Spread  # of one round
    learner_cpu_s: Spread  # of one round and learner
    leader_before_bytes: int  # peak resident set when it began to listen
    leader_peak_bytes: int  # and at its last commit
    checkpoint_bytes: int


def run_fleet(
    model: str,
    *,
    learners: int,
    rounds: int,
    warmup: int,
    secure: bool = False,
    leader: str = _LEADER,
    settings: Mapping[str, object] = MappingProxyType({}),
    viewers: int = 0,
    edges: int = 0,
    own_data: bool = False,
    line_bytes_per_s: float | None = None,
) -> FleetRun:
    """Train `rounds` + `warmup` rounds with no-op learners, which join if the leader is to be `secure`.

    `leader` is the module that leads, with `settings` of its own; `viewers` look at its page, and updates go
    through `edges`. With `own_data` learners have some; each has a line of `line_bytes_per_s` each way.

    Raises ProgramFailedError with the end of the log of a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        way = choose_way(folder / "trust" if secure else None)
        sizes: dict[str, object] = {"model.name": model, "rounds": rounds + warmup, "learners": learners}
        above = f"127.0.0.1:{free_port()}"
        if edges:
            sizes["edges.listen"] = above
        if own_data:
            sizes["data.holder"] = "learner"
            save_dataset(synthetic_shapes(64, 1).train, folder / "own.safetensors")
        program, address = probed_leader(
            folder, {**TOY_DATA, **way.settings, **sizes, **settings}, module=leader
        )
        crew = [
            probed_program(
                name,
                folder,
                "benchmarks.noop_learner",
                "--leader",
                _line(stack, address, line_bytes_per_s),
                *way.learner_flags(name),
                *(_own(folder, name) if own_data else ()),
            )
            for name in (f"learner-{number}" for number in range(1, learners + 1))
        ]
        run_together(program, [*crew, *edge_programs(folder, above, edges), *_viewers(folder, viewers)])
        first, *commits = read_probe(folder / "leader.probe")
        orders = [read_probe(folder / f"{learner.name}.probe")[warmup:] for learner in crew]
        newest = max((folder / "run" / "checkpoints").iterdir())
        return FleetRun(
            round_s=clock_s(commits[warmup:]),
            leader_cpu_s=cpu_s(commits[warmup:]),
            learner_cpu_s=Spread.of([cpu_s(readings).median for readings in orders]),
            leader_before_bytes=first.peak_bytes,
            leader_peak_bytes=commits[-1].peak_bytes,
            checkpoint_bytes=newest.stat().st_size,
        )


def _line(stack: ExitStack, address: str, bytes_per_s: float | None) -> str:
    """Where a learner reaches the leader, over a line of its own where that has a rate."""
    if bytes_per_s is None:
        return address
    host, _, port = address.rpartition(":")
    proxy = stack.enter_context(Proxy(host, int(port)))
    proxy.set_bandwidth(bytes_per_s)
    return proxy.address


def _own(folder: Path, name: str) -> tuple[str, ...]:
    return ("--data", str(folder / "own.safetensors"), "--state-dir", str(folder / f"state-{name}"))


def edge_programs(folder: Path, above: str, count: int) -> Sequence[Program]:
    """So many edges of the leader that listens for them at `above`; small models are nothing special to them."""
    command = (sys.executable, "-m", "leader.edge", "--leader", above)
    return [Program(name, command, folder / f"{name}.log") for name in (f"edge-{n}" for n in range(count))]


def _viewers(folder: Path, count: int) -> Sequence[Program]:
    page = str(folder / "run" / "page")
    command = (sys.executable, "-m", "benchmarks.rounds.viewers", "--page", page, "--viewers", str(count))
    return [Program("viewers", command, folder / "viewers.log")] if count else []


def probed_leader(
    folder: Path, settings: Mapping[str, object], *, whole: bool = False, module: str = _LEADER
) -> tuple[Program, str]:
    """A leader that runs in `folder`, and its address; `whole` readings have descriptors and tasks too."""
    address = f"127.0.0.1:{free_port()}"
    flags = set_flags({**settings, "listen": address, "run_dir": folder / "run"})
    return probed_program("leader", folder, module, *flags, whole=whole), address


def set_flags(settings: Mapping[str, object]) -> list[str]:
    """These config keys on the leader's command line."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def probed_program(name: str, folder: Path, module: str, *flags: str, whole: bool = False) -> Program:
    """`python -m module` under `name`, which leaves its readings in NAME.probe and its output in NAME.log."""
    # `env` sets the variables for this one process.
    probe = (f"{PROBE_FILE}={folder / name}.probe", f"{WHOLE}={1 if whole else ''}")
    return Program(name, ("env", *probe, sys.executable, "-m", module, *flags), folder / f"{name}.log")


def clock_s(readings: list[Reading]) -> Spread:
    """Seconds from each reading to the next."""
    return Spread.of([after.clock_s - before.clock_s for before, after in pairwise(readings)])


def cpu_s(readings: list[Reading]) -> Spread:
    """CPU seconds from each reading to the next."""
    return Spread.of([after.cpu_s - before.cpu_s for before, after in pairwise(readings)])
