"""The transport: one ResNet-18 from the leader to learners and back, against what the machine can do at most.

All ways of moving it are measured in turns within one run, as the machine's speed changes from minute to minute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from benchmarks.transport_certificate import make_certificate
from benchmarks.transport_fleet import Cost, Fleet, open_fleet
from benchmarks.transport_service import model_bytes
from benchmarks.transport_wire import (
    BARE,
    CHECKED,
    DOWN,
    FLOCKSTEP,
    FLOCKSTEP_64,
    FLOCKSTEP_256,
    MEMCPY,
    OBJECTS,
    RECEIVED,
    SOCKETS,
    UNARY,
    UP,
)

COUNTS, QUICK_COUNTS = (1, 2, 4, 8), (1, 4)
TYPICAL = 4  # learners
_REPEATS, _QUICK_REPEATS = 9, 2
_LEAST_GB_S = 1.0
_LEAST_RATIO = 0.9  # of the bare loop's rate


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    way: str
    direction: str
    learners: int
    tls: bool = False

    @property
    def name(self) -> str:
        """For a table."""
        learners = f"{self.learners} learner{'s' * (self.learners > 1)}"
        return f"{self.way}, {self.direction}, {learners}{', TLS' * self.tls}"


@dataclass(frozen=True)
class Rate:
    """What a case came to."""

    gb_s: Spread  # of all learners together
    cpu_s_gb: Spread  # CPU seconds a GB, leader and learners together
    leader_cpu_s_gb: Spread


Rates = Mapping[Case, Rate]


def cases(counts: Sequence[int]) -> tuple[Case, ...]:
    """All that is measured; the ways that are compared stand next to each other."""
    down, up = (SOCKETS, BARE, FLOCKSTEP), (RECEIVED, SOCKETS, BARE, CHECKED, FLOCKSTEP)
    main = [
        Case(way, direction, count, tls)
        for tls in (False, True)
        for count in counts
        for direction, ways in ((DOWN, down), (UP, up))
        for way in ways
    ]
    beside = [
        Case(way, direction, TYPICAL)
        for direction in (DOWN, UP)
        for way in (FLOCKSTEP_256, FLOCKSTEP_64, OBJECTS, UNARY)
    ]
    return (*(Case(MEMCPY, DOWN, count) for count in counts), *main, *beside)


def measure(quick: bool) -> Result:
    """Every case, in turns."""
    counts, repeats = (QUICK_COUNTS, _QUICK_REPEATS) if quick else (COUNTS, _REPEATS)
    wanted = cases(counts)
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        make_certificate(Path(scratch))
        with open_fleet(Path(scratch), max(counts)) as fleet:
            return result(_in_turns(fleet, wanted, repeats), counts)


def _in_turns(fleet: Fleet, wanted: Sequence[Case], repeats: int) -> Rates:
    costs: dict[Case, list[Cost]] = {case: [] for case in wanted}
    for turn in range(repeats + 1):  # connections are opened and buffers grown in the first
        for case in wanted:
            cost = fleet.measure(case.way, case.direction, case.tls, case.learners)
            if turn:
                costs[case].append(cost)
    return {case: rate(case, found) for case, found in costs.items()}


def rate(case: Case, costs: Sequence[Cost]) -> Rate:
    """The rates of measurements of one case."""
    gb = case.learners * model_bytes() / 1e9
    return Rate(
        Spread.of([gb / cost.seconds for cost in costs]),
        Spread.of([(cost.leader_cpu_s + cost.learner_cpu_s) / gb for cost in costs]),
        Spread.of([cost.leader_cpu_s / gb for cost in costs]),
    )


def result(rates: Rates, counts: Sequence[int]) -> Result:
    """Figures, ratios and targets."""
    typical = [case for case in rates if case.learners == TYPICAL and case.way != MEMCPY]
    promises = [promise for direction in (DOWN, UP) for promise in _promises(rates, direction)]
    return Result(
        entry="transport",
        about=f"ResNet-18 ({model_bytes() / 1e6:.1f} MB) over loopback, leader and learners on one machine; "
        "GB/s of all learners together",
        target=promises[0],
        further=tuple(promises[1:]),
        figures=(
            *(Figure(case.name, "GB/s", found.gb_s) for case, found in rates.items()),
            *(Figure(f"CPU, {case.name}", "s/GB", rates[case].cpu_s_gb) for case in typical),
            *(Figure(f"leader's CPU, {case.name}", "s/GB", rates[case].leader_cpu_s_gb) for case in typical),
        ),
        ratios=dict(_ratios(rates, counts)),
        series=_series(rates, counts),
    )


def _promises(rates: Rates, direction: str) -> tuple[Target, Target]:
    ours, bare = (rates[Case(way, direction, TYPICAL)].gb_s.median for way in (FLOCKSTEP, BARE))
    where = f"{direction}, {TYPICAL} learners"
    return (
        Target(f"time for a GB, {where}", "s", 1 / ours, 1 / _LEAST_GB_S),
        Target(f"rate of the bare loop to Flockstep's, {where}", "", bare / ours, 1 / _LEAST_RATIO),
    )


def _ratios(rates: Rates, counts: Sequence[int]) -> list[tuple[str, float]]:
    """Flockstep's rate to those of the references, for each number of learners."""
    pairs = [(DOWN, SOCKETS), (DOWN, BARE), (UP, SOCKETS), (UP, BARE), (UP, CHECKED)]
    return [
        (
            f"Flockstep to {reference}, {direction}, {count}{', TLS' * tls}",
            rates[Case(FLOCKSTEP, direction, count, tls)].gb_s.median
            / rates[Case(reference, direction, count, tls)].gb_s.median,
        )
        for tls in (False, True)
        for direction, reference in pairs
        for count in counts
    ]


def _series(rates: Rates, counts: Sequence[int]) -> dict[str, list[float]]:
    """Rates over the number of learners, a column for each way, direction and TLS."""
    columns: dict[str, list[float]] = {"learners": [float(count) for count in counts]}
    for case, found in rates.items():
        if case.way in (SOCKETS, BARE, CHECKED, FLOCKSTEP):
            columns.setdefault(column(case.way, case.direction, case.tls), []).append(found.gb_s.median)
    return columns


def column(way: str, direction: str, tls: bool) -> str:
    """The column of the series that has these rates."""
    return f"{way}, {direction}{', TLS' * tls}, GB/s"
