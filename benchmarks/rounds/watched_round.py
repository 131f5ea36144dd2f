"""The watched round: what the record, the page with ten viewers and /metrics add to an idle round, in turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks import small_model
from benchmarks.fleet import FleetRun, run_fleet
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from leader.events import Event, LearnerJoined, RoundCommitted, RunStarted, StepApplied, UpdateAccepted
from leader.services.record.followers import Followers
from leader.services.record.writer import Record
from leader.web.server import WebServer, listen_on

_LEARNERS, _VIEWERS = 8, 10
_ROUND: tuple[Event, ...] = (
    *(UpdateAccepted(n, 1, 0, 10, 2.0, 5.0, 100, f"shard-{n}", 0.5) for n in range(_LEARNERS)),
    StepApplied(1, 0, 1, 2.0, 0, 0),
    RoundCommitted(1, 2.0, 1.0, 200, 300, _LEARNERS, 80, 0.1),
)


def measure(quick: bool) -> Result:
    """Runs with all of it and with none, one after the other and in the other order the next time."""
    turns, rounds = (1, 100) if quick else (5, 500)
    bare: list[FleetRun] = []
    watched: list[FleetRun] = []
    for turn in range(turns):
        pair = (partial(_bare, bare, rounds), partial(_watched, watched, rounds))
        for run in pair[:: -1 if turn % 2 else 1]:
            run()
    return result(bare, watched, _event_us(2_000 if quick else 20_000))


def result(bare: list[FleetRun], watched: list[FleetRun], event_us: float) -> Result:
    """Figures of runs in pairs, and what is promised of them."""
    pairs = list(zip(bare, watched, strict=True))
    ratio = statistics.median(after.round_s.median / before.round_s.median for before, after in pairs)
    more = (
        statistics.median(after.leader_peak_bytes - before.leader_peak_bytes for before, after in pairs) / 1e6
    )
    figures = [
        figure
        for name, runs in (("bare", bare), ("watched", watched))
        for figure in (
            Figure(f"round, {name}", "ms", Spread.of([run.round_s.median for run in runs]).scaled(1e3)),
            Figure(
                f"leader CPU, {name}", "ms", Spread.of([run.leader_cpu_s.median for run in runs]).scaled(1e3)
            ),
            Figure(f"leader memory, {name}", "MB", Spread.of([run.leader_peak_bytes / 1e6 for run in runs])),
        )
    ]
    return Result(
        entry="watched_round",
        about=f"idle round of {_LEARNERS} learners with record, page ({_VIEWERS} viewers) and /metrics (each second), "
        "beside one with none of these, in turns; viewers on the same machine",
        target=Target("watched round, to a bare one", "", ratio, 1.05),
        further=(
            Target("leader memory, more than bare", "MB", more, 40.0),
            Target("an event", "us", event_us, 20.0),
        ),
        figures=tuple(figures),
        ratios={"watched to bare": ratio},
    )


def _bare(runs: list[FleetRun], rounds: int) -> None:
    runs.append(
        run_fleet(
            small_model.NAME,
            learners=_LEARNERS,
            rounds=rounds,
            warmup=20,
            leader="benchmarks.rounds.bare_leader",
            settings={"web.listen": ""},
        )
    )


def _watched(runs: list[FleetRun], rounds: int) -> None:
    runs.append(run_fleet(small_model.NAME, learners=_LEARNERS, rounds=rounds, warmup=20, viewers=_VIEWERS))


def _event_us(events: int) -> float:
    """CPU of the thread that tells, for each event of an ordinary round."""
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        path = Path(scratch, "metadata.sqlite")
        record, server = (
            Record(path, Followers(path, [])),
            WebServer(listen_on("127.0.0.1:0"), "", lambda: ()),
        )
        taken: tuple[Callable[[Event], None], ...] = (record.on_event, server.on_event)
        record.on_event(RunStarted("run-1", Path(), "none", "none", 9, "delta", 5, "127.0.0.1:1", _LEARNERS))
        for number in range(_LEARNERS):
            record.on_event(LearnerJoined(number, f"learner-{number}", "cpu", "session", None))
        began = time.thread_time()
        for event in islice(cycle(_ROUND), events):
            for take in taken:
                take(event)
        spent = time.thread_time() - began
        server.stop()
        record.abandon()
    return 1e6 * spent / events
