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
from benchmarks.transport.fleet import Cost, Fleet, open_fleet
from benchmarks.transport.service import model_bytes
from benchmarks.transport.wire import (
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

COUNTS = (1, 2, 4, 8)
TYPICAL = 4  # learners
_REPEATS, _QUICK_REPEATS = 7, 1
RATE, LOWER, UPPER = "GB/s", "GB/s, first quartile", "GB/s, third quartile"  # columns of the series
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
        return f"{self.way}, {self.direction}{', TLS' * self.tls}"


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
    counts, repeats = ((TYPICAL,), _QUICK_REPEATS) if quick else (COUNTS, _REPEATS)
    wanted = cases(counts)
    with (
        tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch,
        open_fleet(Path(scratch), max(counts)) as fleet,
    ):
        return result(_in_turns(fleet, wanted, repeats))


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


def result(rates: Rates) -> Result:
    """Figures, ratios and targets at the typical number of learners; series over their number."""
    typical = {case: found for case, found in rates.items() if case.learners == TYPICAL}
    promises = [promise for direction in (DOWN, UP) for promise in _promises(rates, direction)]
    return Result(
        entry="transport",
        about=f"ResNet-18 ({model_bytes() / 1e6:.1f} MB) over loopback, leader and {TYPICAL} learners (series: "
        "others) on one machine; GB/s of all learners together, CPU of all processes",
        target=promises[0],
        further=tuple(promises[1:]),
        figures=(
            *(Figure(case.name, "GB/s", found.gb_s) for case, found in typical.items()),
            *(Figure(f"CPU, {case.name}", "s/GB", found.cpu_s_gb) for case, found in typical.items()),
        ),
        ratios=_ratios(rates),
        series=_series(rates),
    )


def _promises(rates: Rates, direction: str) -> tuple[Target, Target]:
    ours, bare = (rates[Case(way, direction, TYPICAL)].gb_s.median for way in (FLOCKSTEP, BARE))
    return (
        Target(f"time for a GB, {direction}", "s", 1 / ours, 1 / _LEAST_GB_S),
        Target(f"rate of the bare loop to Flockstep's, {direction}", "", bare / ours, 1 / _LEAST_RATIO),
    )


def _ratios(rates: Rates) -> dict[str, float]:
    """Flockstep's rate to those of the references."""
    pairs = [(DOWN, SOCKETS), (DOWN, BARE), (UP, SOCKETS), (UP, BARE), (UP, CHECKED)]
    return {
        f"Flockstep to {reference}, {direction}{', TLS' * tls}": rates[
            Case(FLOCKSTEP, direction, TYPICAL, tls)
        ].gb_s.median
        / rates[Case(reference, direction, TYPICAL, tls)].gb_s.median
        for tls in (False, True)
        for direction, reference in pairs
    }


def _series(rates: Rates) -> dict[str, list[float]]:
    """Over the number of learners: rate with its quartiles, and the CPU of leader and learners."""
    columns: dict[str, list[float]] = {"learners": sorted({float(case.learners) for case in rates})}
    for case, found in rates.items():
        if case.way in (SOCKETS, BARE, CHECKED, FLOCKSTEP):
            for name, value in (
                (RATE, found.gb_s.median),
                (LOWER, found.gb_s.lower),
                (UPPER, found.gb_s.upper),
                ("CPU s/GB", found.cpu_s_gb.median),
                ("leader's CPU s/GB", found.leader_cpu_s_gb.median),
            ):
                columns.setdefault(f"{case.name}, {name}", []).append(value)
    return columns
