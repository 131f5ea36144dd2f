"""Simulated client updates a second: 10 clients a round out of 100, 1,000 and 10,000, one local step each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Plot

from benchmarks.mlp_task import EXAMPLES, PARAMETERS, Vectors
from benchmarks.reference import durable_write
from benchmarks.result import Figure, Result
from benchmarks.spread import Spread
from leader.config import RunConfig
from leader.events import Event, RoundCommitted
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate

A_ROUND = 10  # clients
COUNTS, QUICK_COUNTS = (100, 1000, 10_000), (100, 1000)
_WARMUP = 10  # rounds


@dataclass(frozen=True)
class Point:
    """One number of clients, measured."""

    clients: int
    round_s: Spread
    cpu_s: Spread  # of the whole process, a round
    checkpoint_bytes: int


def measure(quick: bool) -> Result:
    """All the counts, in one process and thread, every round's checkpoint on disk."""
    counts, rounds = (QUICK_COUNTS, 40) if quick else (COUNTS, 300)
    points = [measure_point(count, rounds) for count in counts]
    first, last = points[0], points[-1]
    write = durable_write(first.checkpoint_bytes, 20 if quick else 200)
    figures = [figure for point in points for figure in _figures(point)]
    reference = Figure(
        f"reference: durable write of the checkpoint of {first.clients}", "ms", write.scaled(1e3)
    )
    return Result(
        entry="simulation",
        about=f"{PARAMETERS} parameters (MLP 32-64-10), one step on {EXAMPLES} examples, {A_ROUND} clients a round",
        target=None,
        figures=(*figures, reference),
        ratios={
            f"round of {last.clients} clients to one of {first.clients}": last.round_s.median
            / first.round_s.median,
            "updates a second, 100 clients": A_ROUND / first.round_s.median,
            "updates a second of CPU time, 100 clients": A_ROUND / first.cpu_s.median,
        },
        series={
            "clients": [point.clients for point in points],
            "updates/s": [A_ROUND / point.round_s.median for point in points],
            "updates/s of CPU time": [A_ROUND / point.cpu_s.median for point in points],
        },
    )


def _figures(point: Point) -> tuple[Figure, ...]:
    return (
        Figure(f"{point.clients} clients: round", "ms", point.round_s.scaled(1e3)),
        Figure(f"{point.clients} clients: CPU a round", "ms", point.cpu_s.scaled(1e3)),
    )


def measure_point(clients: int, rounds: int) -> Point:
    """One simulation with so many clients."""
    own = [_client(number) for number in range(clients)]
    moments: list[tuple[float, float]] = []

    def heard(event: Event) -> None:
        if isinstance(event, RoundCommitted):
            moments.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder = Path(scratch) / "run"
        simulate(_config(clients, rounds + _WARMUP, folder), hooks=Hooks(own=own, listener=heard))
        checkpoint = next((folder / "checkpoints").iterdir()).stat().st_size
    pairs = list(zip(moments[_WARMUP - 1 :], moments[_WARMUP:], strict=False))
    return Point(
        clients,
        Spread.of([after[0] - before[0] for before, after in pairs]),
        Spread.of([after[1] - before[1] for before, after in pairs]),
        checkpoint,
    )


def _client(number: int) -> Brought:
    examples = Vectors.of_client(number)
    return Brought(examples, leader_pb2.OwnData(examples=len(examples), fingerprint=f"client-{number}"))


def _config(clients: int, rounds: int, folder: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "rounds": rounds,
            "learners": clients,
            "run_dir": folder,
            "model": {"task": "benchmarks.mlp_task:Mlp"},
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
