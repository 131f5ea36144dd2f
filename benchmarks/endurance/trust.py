"""What trust costs, each quantity without it and with it in turns; and what a flood does to an honest learner."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks import small_model
from benchmarks.endurance.handshakes import Opened
from benchmarks.endurance.watched import Watched, crowds, running, watched_leader
from benchmarks.fleet import run_fleet
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from benchmarks.transport.fleet import open_fleet
from benchmarks.transport.transport import Case, rate
from benchmarks.transport.wire import BARE, DOWN, FLOCKSTEP, UP
from benchmarks.trust_folder import InTheClear, choose_way

RESNET18, IDLE = "ResNet-18 round", "idle round"
CPU_DOWN, CPU_UP = "transport CPU, down", "transport CPU, up"
SESSION, START, CONNECTION = "memory of a session", "start until registered", "new connection"
#: Most that each may be with trust, as a multiple of without.
_MOST = {RESNET18: 1.35, CPU_DOWN: 1.35, CPU_UP: 1.35, IDLE: 1.3}
_MOST_KIB = 60.0  # of a session, beyond one without trust
_MOST_JOIN_S = 1.0
_LEAST_PER_S = 400.0  # new connections
_MOST_FLOODED = 2.0

_LEARNERS = 2  # of ResNet-18
_WARMUP = 3  # rounds
_SILENT = 500  # connections of the flood that say nothing
_SETTLED_S = 3.0  # until sessions that were opened are at rest


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    turns: int
    resnet18_rounds: int
    idle_rounds: int
    idle_learners: int
    transfers: int  # in each direction
    sessions: int
    starts: int  # of a learner in a turn
    connections: int  # in a turn
    flood: int  # connections, beside the silent ones
    calm_rounds: int  # before the flood and after it


WHOLE = Sizes(3, 12, 100, 4, 10, 400, 2, 1500, 4000, 15)
QUICK = Sizes(1, 4, 30, 2, 2, 200, 1, 400, 1000, 4)


@dataclass(frozen=True)
class Compared:
    """One quantity without trust and with it."""

    name: str
    unit: str
    plain: Spread
    secure: Spread

    @property
    def ratio(self) -> float:
        """With trust to without."""
        return self.secure.median / self.plain.median

    @property
    def more(self) -> float:
        """With trust less without."""
        return self.secure.median - self.plain.median

    @property
    def figures(self) -> tuple[Figure, Figure]:
        """Both, for a table."""
        return (
            Figure(f"{self.name}, plain", self.unit, self.plain),
            Figure(f"{self.name}, secure", self.unit, self.secure),
        )


class Samples:
    """Values of each quantity, without trust and with it, as they come in."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], tuple[list[float], list[float]]] = {}

    def add(self, name: str, unit: str, secure: bool, value: float) -> None:
        """Take one in."""
        self._values.setdefault((name, unit), ([], []))[secure].append(value)

    def compared(self) -> dict[str, Compared]:
        """All quantities, by name."""
        return {
            name: Compared(name, unit, Spread.of(plain), Spread.of(secure))
            for (name, unit), (plain, secure) in self._values.items()
        }


@dataclass(frozen=True)
class Flood:
    """Rounds of one honest learner, in seconds, and the connections that came in meanwhile."""

    calm: Spread
    flooded: Spread
    longest: float  # of the flooded
    opened: Opened


def measure(quick: bool) -> Result:
    """Everything, in turns."""
    sizes, samples = QUICK if quick else WHOLE, Samples()
    for turn in range(sizes.turns):
        for secure in (False, True):
            _rounds(samples, RESNET18, "resnet18", _LEARNERS, sizes.resnet18_rounds, secure)
        for secure in (False, True):
            _rounds(samples, IDLE, small_model.NAME, sizes.idle_learners, sizes.idle_rounds, secure)
        _standing_leaders(samples, sizes, turn)
    _transport(samples, sizes.transfers)
    return result(samples.compared(), _flood(sizes), sizes)


def result(found: Mapping[str, Compared], flood: Flood, sizes: Sizes) -> Result:
    """Figures, ratios, and what is promised of them."""
    flooded = flood.flooded.median / flood.calm.median
    targets = [
        *(Target(f"{name}, secure to plain", "", found[name].ratio, most) for name, most in _MOST.items()),
        Target("memory of a session, more than plain", "KiB", found[SESSION].more, _MOST_KIB),
        Target("joining, start until registered, more than plain", "s", found[START].more, _MOST_JOIN_S),
        Target("a new TLS connection", "ms", found[CONNECTION].secure.median, 1e3 / _LEAST_PER_S),
        Target("round under a flood, to one at rest", "", flooded, _MOST_FLOODED),
    ]
    return Result(
        entry="trust",
        about=f"a leader without trust and with it, in turns; idle round with {sizes.idle_learners} learners; flood "
        f"of {_SILENT} silent connections and {sizes.flood} whole handshakes; all ends on one machine",
        target=targets[0],
        further=tuple(targets[1:]),
        figures=(
            *(figure for compared in found.values() for figure in compared.figures),
            Figure(f"{RESNET18} of one learner, at rest", "s", flood.calm),
            Figure(f"{RESNET18} of one learner, under a flood", "s", flood.flooded),
            Figure("longest of these", "s", Spread.of([flood.longest])),
            Figure("connections of the flood", "/s", Spread.of([flood.opened.per_s])),
            Figure("CPU of who floods", "ms a connection", Spread.of([flood.opened.cpu_ms])),
        ),
        ratios={f"{name}: secure to plain": compared.ratio for name, compared in found.items()},
    )


def _rounds(samples: Samples, name: str, model: str, learners: int, rounds: int, secure: bool) -> None:
    """One run's median round, and what the leader computes in it."""
    run = run_fleet(model, learners=learners, rounds=rounds, warmup=_WARMUP, secure=secure)
    samples.add(name, "ms", secure, 1e3 * run.round_s.median)
    samples.add(f"{name}, leader CPU", "ms", secure, 1e3 * run.leader_cpu_s.median)


def _transport(samples: Samples, transfers: int) -> None:
    """CPU of both ends for a GB through the leader's own service, and what gRPC's own TLS is of it."""
    names = {(FLOCKSTEP, DOWN): CPU_DOWN, (FLOCKSTEP, UP): CPU_UP}
    names |= {(BARE, direction): f"{names[FLOCKSTEP, direction]}, {BARE}" for direction in (DOWN, UP)}
    cases = [Case(way, direction, _LEARNERS, tls) for way, direction in names for tls in (False, True)]
    with _scratch() as folder, open_fleet(folder, _LEARNERS) as fleet:
        for turn in range(transfers + 1):  # connections are opened in the first
            for case in cases:
                cost = fleet.measure(case.way, case.direction, case.tls, case.learners)
                if turn:
                    spent = rate(case, [cost]).cpu_s_gb.median
                    samples.add(names[case.way, case.direction], "s/GB", case.tls, spent)


def _standing_leaders(samples: Samples, sizes: Sizes, turn: int) -> None:
    """Two leaders that wait for more learners than come: starts of learners, sessions at rest, connections."""
    most = sizes.sessions + sizes.starts + 1
    settings = {
        "model.name": small_model.NAME,
        "learners": most,
        "limits.max_learners": most,
        "data.train_examples": most,
    }
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch())
        ways = [choose_way(None), choose_way(folder / "trust")]
        leaders = [
            stack.enter_context(watched_leader(folder / f"leader-{number}", way, settings))
            for number, way in enumerate(ways)
        ]
        pairs = list(enumerate(zip(leaders, ways, strict=True)))
        for number in range(sizes.starts):
            for secure, (leader, way) in pairs:
                samples.add(START, "s", bool(secure), _start_s(leader, way, f"start-{number}"))
        for secure, (leader, way) in pairs:
            samples.add(SESSION, "KiB", bool(secure), _session_kib(leader, way, sizes.sessions))
        for secure, (leader, way) in pairs:
            opened = _open(leader, way, sizes.connections)
            samples.add(CONNECTION, "ms", bool(secure), 1e3 / opened.per_s)


def _start_s(leader: Watched, way: InTheClear, name: str) -> float:
    """From the start of a learner's process until the leader has it."""
    command = (sys.executable, "-m", "learner", "--leader", leader.address, *way.learner_flags(name))
    began = time.time()
    with running(command, stderr=subprocess.DEVNULL):
        return leader.wait("LearnerJoined") - began


def _session_kib(leader: Watched, way: InTheClear, sessions: int) -> float:
    """What the leader's resident set grows by with each."""
    before = leader.rss
    with crowds(leader.address, way, sessions):
        time.sleep(_SETTLED_S)
        return (leader.rss - before) / 1024 / sessions


def _open(leader: Watched, way: InTheClear, connections: int, silent: int = 0) -> Opened:
    with _opening(leader, way, connections, silent) as process:
        return _opened(process)


@contextmanager
def _opening(
    leader: Watched, way: InTheClear, connections: int, silent: int
) -> Iterator[subprocess.Popen[str]]:
    sizes = ("--connections", str(connections), "--silent", str(silent))
    command = (sys.executable, "-m", "benchmarks.endurance.handshakes", "--leader", leader.address, *sizes)
    with running((*command, *way.crowd_flags), stdout=subprocess.PIPE) as process:
        yield process


def _opened(process: subprocess.Popen[str]) -> Opened:
    line, _ = process.communicate()
    if not line:
        raise RuntimeError("not all connections came about; see the error above")
    return Opened(**json.loads(line))


def _flood(sizes: Sizes) -> Flood:
    """A secure leader with one learner, before, in and after a flood."""
    settings = {"model.name": "resnet18", "learners": 1, "rounds": 100_000}
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch())
        way = choose_way(folder / "trust")
        leader = stack.enter_context(watched_leader(folder, way, settings))
        command = (sys.executable, "-m", "benchmarks.noop_learner", "--leader", leader.address)
        honest = (*command, *way.learner_flags("honest"))
        stack.enter_context(running(honest, stderr=subprocess.DEVNULL))
        commits = [leader.wait("RoundCommitted") for _ in range(_WARMUP + sizes.calm_rounds)][_WARMUP:]
        process = stack.enter_context(_opening(leader, way, sizes.flood, _SILENT))
        while process.poll() is None:
            commits.append(leader.wait("RoundCommitted"))
        commits += [leader.wait("RoundCommitted") for _ in range(sizes.calm_rounds)]
        return flood_of(commits, _opened(process))


def flood_of(commits: Sequence[float], opened: Opened) -> Flood:
    """The rounds between these commits, told apart by whether they lay in the flood or outside."""
    rounds = list(pairwise(commits))
    calm = [end - start for start, end in rounds if end < opened.began or start > opened.ended]
    flooded = [end - start for start, end in rounds if opened.began <= start and end <= opened.ended]
    return Flood(Spread.of(calm), Spread.of(flooded), max(flooded), opened)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as folder:
        yield Path(folder)
