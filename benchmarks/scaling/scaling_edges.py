"""What a round costs the leader behind edges, and the law that says so; and ten learners beside ten thousand."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import small_model
from benchmarks.endurance import sessions
from benchmarks.result import Figure, Result, Target
from benchmarks.scaling.laws import Cost, Runs, constants, fitted
from benchmarks.scaling.learners_run import CrowdRun, run_crowd
from benchmarks.scaling.model import EDGE_BYTES, EDGE_SECONDS, Law
from benchmarks.scaling.scaling import ELEMENTS
from benchmarks.spread import Spread

#: Rounds that are measured, and before them: edges join in the first ones.
_MODELS = {"resnet9-w16": (60, 60), "resnet18": (8, 4)}
EDGES, LEARNERS = (1, 2), (2, 4, 8, 16)
FEW, MANY = 10, 10_000  # light learners


_COSTS = (
    Cost("leader CPU", "s", EDGE_SECONDS, lambda run: run.leader_cpu_s.median),
    Cost("bytes up", "bytes", EDGE_BYTES, lambda run: run.received_bytes),
    Cost("bytes down", "bytes", EDGE_BYTES, lambda run: run.sent_bytes),
)


def measure(quick: bool) -> Result:
    """The points and their laws, and the leader's memory with few and with many learners."""
    if quick:
        run = run_crowd("resnet9-w16", learners=4, rounds=4, warmup=2, edges=1)
        return Result("scaling_edges", "delta rounds through one edge", None, tuple(_figures("4", run)), {})
    runs: Runs = {
        (learners, ELEMENTS[model], edges): run_crowd(
            model, learners=learners, rounds=rounds, warmup=warmup, edges=edges
        )
        for model, (rounds, warmup) in _MODELS.items()
        for edges in EDGES
        for learners in LEARNERS
    }
    crowds = {count: _light(count) for count in (FEW, MANY)}
    return result_of(runs, crowds, sessions.measure_point(MANY, 1).kib_a_session)


def _light(learners: int) -> CrowdRun:
    return run_crowd(small_model.NAME, learners=learners, rounds=2, warmup=1, edges=2, processes=4)


def result_of(runs: Runs, crowds: Mapping[int, CrowdRun], kib_a_session: float) -> Result:
    """The laws, how well they say the points that they were not fitted to, and what a light learner holds."""
    laws = {cost.name: cost.law(runs) for cost in _COSTS}
    few, many = crowds[FEW], crowds[MANY]
    kib = (many.peak_bytes - few.peak_bytes) / 1024 / (MANY - FEW)
    targets = [cost.target(laws[cost.name], runs) for cost in _COSTS]
    return Result(
        entry="scaling_edges",
        about=f"delta rounds through edges with training that takes no time, {len(runs)} points; the laws are "
        f"fitted to {sum(fitted(point, runs) for point in runs)} and predict the others",
        target=targets[0],
        further=(
            *targets[1:],
            Target(
                f"leader memory of a learner, {MANY} of them, to a session's", "", kib / kib_a_session, 1.1
            ),
        ),
        figures=(
            *(figure for point, run in runs.items() for figure in _figures(_name(point), run)),
            *(
                figure
                for count, run in crowds.items()
                for figure in _figures(f"{small_model.PARAMETERS} x {count} by 2 edges", run)
            ),
            Figure("leader memory of a light learner", "KiB", Spread.of([kib])),
            Figure("leader memory of a session", "KiB", Spread.of([kib_a_session])),
            *constants(laws),
        ),
        ratios={"leader memory of a learner to that of a session": kib / kib_a_session},
        series=_series(runs, laws),
    )


def _name(point: tuple[int, ...]) -> str:
    learners, elements, edges = point
    return f"{elements / 1e6:.2g} M x {learners} by {edges} edge{'s' * (edges > 1)}"


def _figures(name: str, run: CrowdRun) -> tuple[Figure, ...]:
    return (
        Figure(f"{name}: round", "s", run.round_s),
        Figure(f"{name}: leader CPU a round", "s", run.leader_cpu_s),
        Figure(f"{name}: leader peak", "MB", Spread.of([run.peak_bytes / 1e6])),
        Figure(f"{name}: to the leader", "MB", Spread.of([run.received_bytes / 1e6])),
        Figure(f"{name}: from the leader", "MB", Spread.of([run.sent_bytes / 1e6])),
    )


def _series(runs: Runs, laws: Mapping[str, Law]) -> dict[str, list[float]]:
    """A row a point: measured, predicted and error of each cost."""
    learners, elements, edges = zip(*runs, strict=True)
    columns: dict[str, list[float]] = {"learners": [*learners], "elements": [*elements], "edges": [*edges]}
    for cost in _COSTS:
        columns |= cost.columns(laws[cost.name], runs)
    return columns
