"""Learners: what a round costs the leader with 1 to 64 of them, idle and with ResNet-18."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks import small_model
from benchmarks.result import Figure, Result, Target
from benchmarks.scaling.learners_run import CrowdRun, run_crowd
from benchmarks.spread import Spread

COUNTS = (1, 2, 4, 8, 16, 32, 64)
FEW, MANY = 4, 64  # whose memory is compared
_MB = 1e6


def measure(quick: bool) -> Result:
    """Rounds with all the counts: a leader process for each, so that peaks are its own."""
    idle = [
        run_crowd(small_model.NAME, learners=count, rounds=30 if quick else 60, warmup=10)
        for count in ((4,) if quick else COUNTS)
    ]
    # As many rounds for every count: the allocator's peak grows with their number.
    large = [
        run_crowd("resnet18", learners=count, rounds=3 if quick else 7, warmup=1 if quick else 2)
        for count in ((2,) if quick else COUNTS)
    ]
    return Result(
        entry="learners",
        about=f"{small_model.PARAMETERS} parameters and ResNet-18, training that takes no time; all learners are "
        "one process on the same machine, with a connection each",
        target=memory_target(large),
        figures=(
            *(figure for run in idle for figure in _figures("idle", run, 1e3, "ms")),
            *(figure for run in large for figure in _figures("ResNet-18", run, 1.0, "s")),
        ),
        ratios={
            **({} if quick else laws(idle, large)),
            "bytes that the kernel counted to the leader's counters, ResNet-18": max(
                run.wire_ratio for run in large
            ),
        },
        series={**_series("idle", idle), **_series("ResNet-18", large)},
    )


def memory_target(runs: Sequence[CrowdRun]) -> Target | None:
    """The promise about the leader's memory, where both counts were measured."""
    peaks = {run.learners: run.peak_bytes for run in runs}
    if FEW not in peaks or MANY not in peaks:
        return None
    return Target(f"peak with {MANY} learners to peak with {FEW}", "", peaks[MANY] / peaks[FEW], 1.15)


def laws(idle: Sequence[CrowdRun], large: Sequence[CrowdRun]) -> dict[str, float]:
    """What one more learner costs: slopes of straight lines through the points."""
    return {
        "idle: leader CPU ms a learner": 1e3 * _slope(idle, lambda run: run.leader_cpu_s.median),
        "idle: round ms a learner": 1e3 * _slope(idle, lambda run: run.round_s.median),
        "ResNet-18: leader CPU ms a learner": 1e3 * _slope(large, lambda run: run.leader_cpu_s.median),
        "ResNet-18: round ms a learner": 1e3 * _slope(large, lambda run: run.round_s.median),
        "ResNet-18: peak MB a learner": _slope(large, lambda run: run.peak_bytes) / _MB,
        "ResNet-18: leader CPU s a GB moved": 1e9
        * _slope(large, lambda run: run.leader_cpu_s.median)
        / _slope(large, lambda run: run.up_bytes + run.down_bytes),
    }


def _slope(runs: Sequence[CrowdRun], value: Callable[[CrowdRun], float]) -> float:
    return statistics.linear_regression([run.learners for run in runs], [value(run) for run in runs]).slope


def _figures(kind: str, run: CrowdRun, factor: float, unit: str) -> tuple[Figure, ...]:
    name = f"{kind}, {run.learners} learner{'s' if run.learners > 1 else ''}"
    return (
        Figure(f"{name}: round", unit, run.round_s.scaled(factor)),
        Figure(f"{name}: leader CPU a round", unit, run.leader_cpu_s.scaled(factor)),
        Figure(f"{name}: leader peak", "MB", Spread.of([run.peak_bytes / _MB])),
    )


def _series(kind: str, runs: Sequence[CrowdRun]) -> dict[str, list[float]]:
    return {
        f"{kind}: learners": [run.learners for run in runs],
        f"{kind}: round, s": [run.round_s.median for run in runs],
        f"{kind}: leader CPU, s": [run.leader_cpu_s.median for run in runs],
        f"{kind}: crowd CPU, s": [run.crowd_cpu_s.median for run in runs],
        f"{kind}: before, MB": [run.before_bytes / _MB for run in runs],
        f"{kind}: peak, MB": [run.peak_bytes / _MB for run in runs],
        f"{kind}: moved, MB": [(run.up_bytes + run.down_bytes) / _MB for run in runs],
    }
