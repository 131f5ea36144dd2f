"""Thousands of sessions on one leader: memory a session, CPU at idle, time until a learner hears.

The leader's exchanges end at their deadline without a single update, so that each round is the
work orders going out to everybody, and then silence.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import small_model
from benchmarks.endurance.watched import crowds, watched_leader
from benchmarks.result import Figure, Result
from benchmarks.spread import Spread
from benchmarks.trust_folder import InTheClear

COUNTS, QUICK_COUNTS = (500, 2000, 5000), (250,)
_ROUND_S = 17.0  # so that CPU is read over one period of the heartbeats, 10 s
_ROUNDS, _QUICK_ROUNDS = 3, 1  # measured; one before them warms up
_SETTLED_S = 5.0  # after a round's start, until everybody has heard


@dataclass(frozen=True)
class Point:
    """One number of sessions, measured."""

    sessions: int
    kib_a_session: float
    idle_cpu: float  # share of one core
    heard_s: tuple[float, ...]  # from the round's start to each learner's hearing it, all rounds


def measure(quick: bool) -> Result:
    """All the counts, and the laws that they follow."""
    counts, rounds = (QUICK_COUNTS, _QUICK_ROUNDS) if quick else (COUNTS, _ROUNDS)
    points = [measure_point(count, rounds) for count in counts]
    figures = [figure for point in points for figure in _figures(point)]
    largest = points[-1]
    return Result(
        entry="sessions",
        about="sessions with a connection each on one leader; clients on the same machine",
        target=None,
        figures=tuple(figures),
        series={
            "sessions": [point.sessions for point in points],
            "KiB": [point.kib_a_session * point.sessions for point in points],
            "idle CPU, %": [100 * point.idle_cpu for point in points],
            "heard p50, ms": [_median_ms(point) for point in points],
            "heard p99, ms": [1e3 * _percentile(point.heard_s, 99) for point in points],
        },
        ratios={
            **(_laws(points) if len(points) > 1 else {}),
            "p99 to median until heard": _percentile(largest.heard_s, 99)
            / statistics.median(largest.heard_s),
        },
    )


def _laws(points: Sequence[Point]) -> dict[str, float]:
    """What sessions cost, as slopes of straight lines through the points."""
    return {
        "KiB a session (slope of the memory)": _slope(points, [p.kib_a_session * p.sessions for p in points]),
        "idle CPU ms a second and 1,000 sessions": _slope(points, [p.idle_cpu * 1e6 for p in points]),
        "median ms until heard a 1,000 sessions": _slope(points, [_median_ms(p) * 1e3 for p in points]),
    }


def _figures(point: Point) -> tuple[Figure, ...]:
    heard = Spread.of(point.heard_s).scaled(1e3)
    return (
        Figure(f"{point.sessions} sessions: memory a session", "KiB", Spread.of([point.kib_a_session])),
        Figure(f"{point.sessions} sessions: idle CPU", "% of a core", Spread.of([100 * point.idle_cpu])),
        Figure(f"{point.sessions} sessions: round start until heard", "ms", heard),
        Figure(
            f"{point.sessions} sessions: the same, 99th percentile",
            "ms",
            Spread.of([1e3 * _percentile(point.heard_s, 99)]),
        ),
    )


def _median_ms(point: Point) -> float:
    return 1e3 * statistics.median(point.heard_s)


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _slope(points: Sequence[Point], values: Sequence[float]) -> float:
    """Least-squares slope of the values over the number of sessions."""
    return statistics.linear_regression([point.sessions for point in points], values).slope


def measure_point(sessions: int, rounds: int) -> Point:
    """One leader with so many sessions."""
    settings = {
        "model.name": small_model.NAME,
        "rounds": 1000,
        "learners": sessions,
        "limits.max_learners": sessions,
        "cohort.deadline_s": _ROUND_S,
        "data.train_examples": sessions,
    }
    way = InTheClear()
    with (
        tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch,
        watched_leader(Path(scratch), way, settings) as leader,
    ):
        before = leader.rss
        with crowds(leader.address, way, sessions) as crowd:
            leader.wait("RoundStarted")  # sessions may still be opening in it
            starts, idle = [], []
            for _ in range(rounds):
                starts.append(leader.wait("RoundStarted"))
                time.sleep(_SETTLED_S)
                idle.append(leader.process.cpu_percent(interval=_ROUND_S - _SETTLED_S - 2.0) / 100)
            memory = leader.rss - before
            heard = crowd.close()
    return Point(sessions, memory / 1024 / sessions, statistics.median(idle), tuple(_delays(starts, heard)))


def _delays(starts: Sequence[float], heard: Sequence[float]) -> Iterator[float]:
    """From the start of its round to each moment of hearing; the log's times are whole milliseconds."""
    for start in starts:
        yield from (max(moment - start, 0.0) for moment in heard if -0.001 <= moment - start < _ROUND_S - 1)
