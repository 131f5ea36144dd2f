"""Leader memory under robust rules: what aggregating 4 to 64 updates takes, a fresh process each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.endurance.robust_leader import Measured
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread

COUNTS, QUICK_COUNTS = (4, 16, 64), (4, 16)
RULES = ("median", "trimmed_mean", "krum", "bulyan", "geometric_median")
MODELS = {"resnet9-w16": 414_074, "resnet18": 11_183_562}  # elements of an update, buffers included
SPOOL_BYTES = 16 << 20  # aggregate.spool_bytes
_MB = 1e6


def column(rule: str, model: str) -> str:
    """The name of a rule's peaks on a model in the series."""
    return f"{rule}, {model}"


@dataclass(frozen=True)
class Curve:
    """One rule on one model, over the number of updates."""

    rule: str
    model: str
    points: tuple[Measured, ...]

    @property
    def name(self) -> str:
        """How it is called in the series."""
        return column(self.rule, self.model)

    @property
    def growth(self) -> float:
        """Largest peak to that with the fewest updates."""
        return max(point.peak_bytes for point in self.points) / self.points[0].peak_bytes


def measure(quick: bool) -> Result:
    """All rules on both models; quick: two of them on the small one."""
    counts, rules, models = (QUICK_COUNTS, RULES[:2], [*MODELS][:1]) if quick else (COUNTS, RULES, [*MODELS])
    curves = [
        Curve(rule, model, tuple(_measure_point(rule, model, count) for count in counts))
        for model in models
        for rule in rules
    ]
    most, fewest = counts[-1], counts[0]
    worst = max(curve.growth for curve in curves)
    return Result(
        entry="robust_memory",
        about=f"memory that aggregating {fewest} to {most} updates takes at its peak, beside the updates on disk; "
        f"aggregate.spool_bytes={SPOOL_BYTES}",
        target=Target(f"peak with up to {most} updates to peak with {fewest}, worst rule", "", worst, 1.5),
        figures=tuple(figure for curve in curves for figure in _figures(curve, most)),
        ratios={f"{curve.name}: growth from {fewest} to {most} updates": curve.growth for curve in curves},
        series={
            "updates": counts,
            **{curve.name: [point.peak_bytes / _MB for point in curve.points] for curve in curves},
        },
    )


def _figures(curve: Curve, most: int) -> tuple[Figure, ...]:
    last = curve.points[-1]
    peaks = Spread.of([point.peak_bytes / _MB for point in curve.points])
    return (
        Figure(f"{curve.name}: peak, over the numbers of updates", "MB", peaks),
        Figure(f"{curve.name}: to combine {most} updates", "s", Spread.of([last.combining_s])),
    )


def _measure_point(rule: str, model: str, count: int) -> Measured:
    arguments = (rule, model, str(count), str(SPOOL_BYTES))
    command = (sys.executable, "-m", "benchmarks.endurance.robust_leader", *arguments)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Measured(**json.loads(output))
