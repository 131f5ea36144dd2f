"""Scaling: what learners and parameters cost the leader, and the law that says so ahead of the measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.result import Figure, Result
from benchmarks.scaling.laws import Cost, Runs, constants, fitted
from benchmarks.scaling.learners_run import run_crowd
from benchmarks.scaling.model import BYTES, MEMORY, SECONDS, Law
from benchmarks.scaling.training import MODEL, TrainingRun, run_training
from benchmarks.spread import Spread

COUNTS = (1, 2, 4, 8)
#: Elements that travel: parameters and float buffers. The rounds make each point last some seconds.
ELEMENTS = {"resnet9-w16": 414_074, "resnet18": 11_183_562, "resnet50": 23_573_962}
_ROUNDS = {"resnet9-w16": 60, "resnet18": 15, "resnet50": 9}


COSTS = (
    Cost("round", "s", SECONDS, lambda run: run.round_s.median),
    Cost("leader CPU", "s", SECONDS, lambda run: run.leader_cpu_s.median),
    Cost("leader peak", "bytes", MEMORY, lambda run: run.peak_bytes),
    Cost("bytes up", "bytes", BYTES, lambda run: run.up_bytes),
    Cost("bytes down", "bytes", BYTES, lambda run: run.down_bytes),
)


def measure(quick: bool) -> Result:
    """The points, the laws fitted to some of them, and how well these say the others."""
    if quick:
        return _quick()
    runs: Runs = {
        (count, ELEMENTS[model]): run_crowd(model, learners=count, rounds=_ROUNDS[model], warmup=2)
        for model in ELEMENTS
        for count in COUNTS
    }
    return result_of(runs, [run_training(count, rounds=4) for count in COUNTS])


def result_of(runs: Runs, training: Sequence[TrainingRun]) -> Result:
    """The laws of measured points, and how well they say those that they were not fitted to."""
    laws = {cost.name: cost.law(runs) for cost in COSTS}
    targets = [cost.target(laws[cost.name], runs) for cost in COSTS]
    return Result(
        entry="scaling",
        about=f"delta rounds with training that takes no time, {len(runs)} points; the laws are fitted to "
        f"{sum(fitted(point, runs) for point in runs)} and predict the others",
        target=targets[0],
        further=tuple(targets[1:]),
        figures=(*_points(runs), *_training(training), *constants(laws)),
        ratios={
            "bytes that the kernel counted to the leader's counters": max(
                run.wire_ratio for run in runs.values()
            )
        },
        series={**_series(runs, laws), **_training_series(training)},
    )


def _quick() -> Result:
    points = (("resnet9-w16", 4),)
    runs: Runs = {
        (count, ELEMENTS[model]): run_crowd(model, learners=count, rounds=4, warmup=1)
        for model, count in points
    }
    return Result("scaling", "delta rounds with training that takes no time", None, _points(runs), {})


def _series(runs: Runs, laws: Mapping[str, Law]) -> dict[str, list[float]]:
    """A row a point: measured, predicted and error of each cost."""
    columns: dict[str, list[float]] = {
        "learners": [learners for learners, _ in runs],
        "elements": [elements for _, elements in runs],
        "fitted": [float(fitted(point, runs)) for point in runs],
    }
    for cost in COSTS:
        columns |= cost.columns(laws[cost.name], runs)
    return columns


def _points(runs: Runs) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    for (learners, elements), run in runs.items():
        name = f"{elements / 1e6:.2g} M x {learners}"
        figures += (
            Figure(f"{name}: round", "s", run.round_s),
            Figure(f"{name}: leader CPU a round", "s", run.leader_cpu_s),
            Figure(f"{name}: leader peak", "MB", Spread.of([run.peak_bytes / 1e6])),
        )
    return tuple(figures)


def _training(runs: Sequence[TrainingRun]) -> tuple[Figure, ...]:
    return tuple(
        figure
        for run in runs
        for figure in (
            Figure(f"training {MODEL} x {run.learners}: round", "s", run.round_s),
            Figure(f"training {MODEL} x {run.learners}: images", "/s", Spread.of([run.images_per_s])),
        )
    )


def _training_series(runs: Sequence[TrainingRun]) -> dict[str, list[float]]:
    return {
        "training: learners": [run.learners for run in runs],
        "training: images/s": [run.images_per_s for run in runs],
        "training: round, s": [run.round_s.median for run in runs],
        "training: leader's share of a core, %": [100 * run.leader_cpu_share for run in runs],
    }
