"""Scaling: what learners and parameters cost the leader, and the law that says so ahead of the measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.learners_run import CrowdRun, run_crowd
from benchmarks.result import Figure, Result, Target
from benchmarks.scaling_model import BYTES, MEMORY, SECONDS, Law, Term, fit
from benchmarks.scaling_training import MODEL, TrainingRun, run_training
from benchmarks.spread import Spread

COUNTS = (1, 2, 4, 8)
#: Elements that travel: parameters and float buffers. The rounds make each point last some seconds.
ELEMENTS = {"resnet9-w16": 414_074, "resnet18": 11_183_562, "resnet50": 23_573_962}
_ROUNDS = {"resnet9-w16": 60, "resnet18": 15, "resnet50": 9}
_LIMIT = 20.0  # per cent
Point = tuple[int, int]  # learners, elements


@dataclass(frozen=True)
class Cost:
    """One cost of a round: its law's terms, and where a run has it."""

    name: str
    unit: str
    terms: tuple[Term, ...]
    of: Callable[[CrowdRun], float]


COSTS = (
    Cost("round", "s", SECONDS, lambda run: run.round_s.median),
    Cost("leader CPU", "s", SECONDS, lambda run: run.leader_cpu_s.median),
    Cost("leader peak", "bytes", MEMORY, lambda run: run.peak_bytes),
    Cost("bytes up", "bytes", BYTES, lambda run: run.up_bytes),
    Cost("bytes down", "bytes", BYTES, lambda run: run.down_bytes),
)


def fitted(point: Point) -> bool:
    """Whether a point goes into the fit: the fewest and the most learners do, those between are predicted."""
    return point[0] in (min(COUNTS), max(COUNTS))


def measure(quick: bool) -> Result:
    """The points, the laws fitted to some of them, and how well these say the others."""
    if quick:
        return _quick()
    runs = {
        (count, ELEMENTS[model]): run_crowd(model, learners=count, rounds=_ROUNDS[model], warmup=2)
        for model in ELEMENTS
        for count in COUNTS
    }
    return result_of(runs, [run_training(count, rounds=4) for count in COUNTS])


def result_of(runs: Mapping[Point, CrowdRun], training: Sequence[TrainingRun]) -> Result:
    """The laws of measured points, and how well they say those that they were not fitted to."""
    laws = {cost.name: law_of(cost, runs) for cost in COSTS}
    targets = [target_of(cost, laws[cost.name], runs) for cost in COSTS]
    return Result(
        entry="scaling",
        about=f"delta rounds with training that takes no time, {len(runs)} points; the laws are fitted to "
        f"{sum(map(fitted, runs))} and predict the others",
        target=targets[0],
        further=tuple(targets[1:]),
        figures=(*_points(runs), *_training(training), *_constants(laws)),
        ratios={
            "bytes that the kernel counted to the leader's counters": max(
                run.wire_ratio for run in runs.values()
            )
        },
        series={**series_of(runs, laws), **_training_series(training)},
    )


def _quick() -> Result:
    points = (("resnet9-w16", 4),)
    runs = {
        (count, ELEMENTS[model]): run_crowd(model, learners=count, rounds=4, warmup=1)
        for model, count in points
    }
    return Result("scaling", "delta rounds with training that takes no time", None, _points(runs), {})


def law_of(cost: Cost, runs: Mapping[Point, CrowdRun]) -> Law:
    """The law of a cost, from the points that are to be fitted."""
    points = [point for point in runs if fitted(point)]
    return fit(cost.terms, points, [cost.of(runs[point]) for point in points])


def target_of(cost: Cost, law: Law, runs: Mapping[Point, CrowdRun]) -> Target:
    """The largest error at a point that was not fitted."""
    errors = [abs(error_of(cost, law, point, run)) for point, run in runs.items() if not fitted(point)]
    return Target(f"{cost.name}: largest error of a predicted point", "%", max(errors), _LIMIT)


def error_of(cost: Cost, law: Law, point: Point, run: CrowdRun) -> float:
    """Per cent by which the law is above the measured value."""
    return 100 * (law(*point) / cost.of(run) - 1)


def series_of(runs: Mapping[Point, CrowdRun], laws: Mapping[str, Law]) -> dict[str, list[float]]:
    """A row a point: measured, predicted and error of each cost."""
    columns: dict[str, list[float]] = {
        "learners": [learners for learners, _ in runs],
        "elements": [elements for _, elements in runs],
        "fitted": [float(fitted(point)) for point in runs],
    }
    for cost in COSTS:
        law = laws[cost.name]
        columns[f"{cost.name}, {cost.unit}"] = [cost.of(run) for run in runs.values()]
        columns[f"{cost.name}, predicted"] = [law(*point) for point in runs]
        columns[f"{cost.name}, error %"] = [error_of(cost, law, point, run) for point, run in runs.items()]
    return columns


def _points(runs: Mapping[Point, CrowdRun]) -> tuple[Figure, ...]:
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


def _constants(laws: Mapping[str, Law]) -> tuple[Figure, ...]:
    return tuple(
        Figure(f"law of {name}: {term.name}", term.unit, Spread.of([constant * term.factor]))
        for name, law in laws.items()
        for constant, term in zip(law.constants, law.terms, strict=True)
    )
