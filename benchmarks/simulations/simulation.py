"""Simulated client updates a second: 10 clients a round out of 100 to 100,000, one local step each."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from matplotlib.figure import Figure as Plot

from benchmarks.reference import durable_write
from benchmarks.result import Figure, Result, Target
from benchmarks.simulations.mlp_task import EXAMPLES, PARAMETERS, Vectors
from benchmarks.spread import Spread
from leader.config import RunConfig
from leader.events import Event, RoundCommitted
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate

A_ROUND = 10  # clients
COUNTS, QUICK_COUNTS = (100, 1000, 10_000, 100_000), (100, 1000)
_WARMUP = 10  # rounds
_DATA = 1000  # sets of examples that are drawn; clients beyond share them


@dataclass(frozen=True)
class Run:
    """One simulation."""

    round_s: Sequence[float]
    cpu_s: Sequence[float]  # of the whole process, a round
    checkpoint_bytes: int
    peak_mb: float  # of the process, so far

    def median(self, what: str) -> float:
        """Of a round: its "CPU" seconds or its "time"."""
        return statistics.median(self.cpu_s if what == "CPU" else self.round_s)


@dataclass(frozen=True)
class Point:
    """One number of clients, measured."""

    clients: int
    round_s: Spread
    cpu_s: Spread
    checkpoint_bytes: int
    peak_mb: float  # with so many clients and no more

    @classmethod
    def of(cls, clients: int, runs: Sequence[Run]) -> Point:
        """All the runs with so many clients together."""
        wall, cpu = (
            Spread.of([second for run in runs for second in seconds(run)])
            for seconds in (attrgetter("round_s"), attrgetter("cpu_s"))
        )
        return cls(clients, wall, cpu, runs[0].checkpoint_bytes, runs[0].peak_mb)


def measure(quick: bool) -> Result:
    """Each count in turns with the least beside it, in one process and thread, every round's checkpoint on disk."""
    counts, rounds, turns = (QUICK_COUNTS, 40, 1) if quick else (COUNTS, 60, 5)
    few, *more = counts
    pairs = [(count, measure_run(few, rounds), measure_run(count, rounds)) for count in more * turns]
    runs = {few: [one for _, one, _ in pairs]}
    runs |= {count: [many for number, _, many in pairs if number == count] for count in more}
    points = [Point.of(count, made) for count, made in runs.items()]
    first, last = points[0], points[-1]
    write = durable_write(first.checkpoint_bytes, 20 if quick else 200)
    figures = [figure for point in points for figure in _figures(point)]
    slower = {
        f"{what} a round, {count:,} clients to {few}": statistics.median(
            many.median(what) / one.median(what) for number, one, many in pairs if number == count
        )
        for what in ("CPU", "time")
        for count in more
    }
    promised = f"CPU a round, {more[:2][-1]:,} clients to {few}"
    peak = last.peak_mb / points[1].peak_mb
    reference = Figure(
        f"reference: durable write of the checkpoint of {first.clients}", "ms", write.scaled(1e3)
    )
    return Result(
        entry="simulation",
        about=f"{PARAMETERS} parameters (MLP 32-64-10), one step on {EXAMPLES} examples, {A_ROUND} clients a round",
        target=Target(promised, "", slower[promised], 1.1),
        further=(Target(f"peak memory with {last.clients:,} clients to that with 1,000", "", peak, 1.5),),
        figures=(*figures, reference),
        ratios={
            **slower,
            "updates a second, 100 clients": A_ROUND / first.round_s.median,
            "updates a second of CPU time, 100 clients": A_ROUND / first.cpu_s.median,
        },
        series={
            "clients": [point.clients for point in points],
            "updates/s": [A_ROUND / point.round_s.median for point in points],
            "updates/s of CPU time": [A_ROUND / point.cpu_s.median for point in points],
            "peak MB": [point.peak_mb for point in points],
        },
    )


def _figures(point: Point) -> tuple[Figure, ...]:
    return (
        Figure(f"{point.clients} clients: round", "ms", point.round_s.scaled(1e3)),
        Figure(f"{point.clients} clients: CPU a round", "ms", point.cpu_s.scaled(1e3)),
        Figure(f"{point.clients} clients: peak memory of the process", "MB", Spread.of([point.peak_mb])),
    )


def measure_run(clients: int, rounds: int) -> Run:
    """One simulation with so many clients."""
    data = [Vectors.of_client(number) for number in range(min(clients, _DATA))]
    own = [_client(number, data[number % _DATA]) for number in range(clients)]
    moments: list[tuple[float, float]] = []

    def heard(event: Event) -> None:
        if isinstance(event, RoundCommitted):
            moments.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder = Path(scratch) / "run"
        simulate(_config(clients, rounds + _WARMUP, folder), hooks=Hooks(own=own, listener=heard))
        checkpoint = next((folder / "checkpoints").glob("round-*")).stat().st_size
    pairs = list(zip(moments[_WARMUP - 1 :], moments[_WARMUP:], strict=False))
    return Run(
        [after[0] - before[0] for before, after in pairs],
        [after[1] - before[1] for before, after in pairs],
        checkpoint,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )


def _client(number: int, examples: Vectors) -> Brought:
    return Brought(examples, leader_pb2.OwnData(examples=len(examples), fingerprint=f"client-{number}"))


def _config(clients: int, rounds: int, folder: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "rounds": rounds,
            "learners": clients,
            "run_dir": folder,
            "model": {"task": "benchmarks.simulations.mlp_task:Mlp"},
            "data": {"source": "none", "holder": "learner"},
            "cohort": {"size": A_ROUND},
            "evaluation": {"every": 0},
            "train": {
                "local_steps": 1,
                "batch_size": EXAMPLES,
                "dtype": "float32",
                "momentum": 0.0,
                "nesterov": False,
                "weight_decay": 0.0,
                "schedule": "constant",
            },
        }
    )


def draw_simulation(series: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write the plot of the columns that `measure` gives to `path` (PNG)."""
    figure = Plot(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, style in (("updates/s", "o-"), ("updates/s of CPU time", "o--")):
        axes.plot(series["clients"], series[name], style, label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("virtual clients")
    axes.set_title(f"{A_ROUND} clients a round, one process")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
