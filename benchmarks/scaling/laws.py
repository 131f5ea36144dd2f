"""Laws of measured runs: fitted to the fewest and the most learners, and held against those between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.result import Figure, Target
from benchmarks.scaling.learners_run import CrowdRun
from benchmarks.scaling.model import Law, Term, fit
from benchmarks.spread import Spread

_LIMIT = 20.0  # per cent
Runs = Mapping[tuple[int, ...], CrowdRun]  # by point: learners first, then what else the terms take


@dataclass(frozen=True)
class Cost:
    """One cost of a round: its law's terms, and where a run has it."""

    name: str
    unit: str
    terms: tuple[Term, ...]
    of: Callable[[CrowdRun], float]

    def law(self, runs: Runs) -> Law:
        """The law of this cost, from the points that are to be fitted."""
        points = [point for point in runs if fitted(point, runs)]
        return fit(self.terms, points, [self.of(runs[point]) for point in points])

    def error(self, law: Law, point: tuple[int, ...], run: CrowdRun) -> float:
        """Per cent by which the law is above the measured value."""
        return 100 * (law(*point) / self.of(run) - 1)

    def target(self, law: Law, runs: Runs) -> Target:
        """The largest error at a point that was not fitted."""
        errors = [abs(self.error(law, point, run)) for point, run in runs.items() if not fitted(point, runs)]
        return Target(f"{self.name}: largest error of a predicted point", "%", max(errors), _LIMIT)

    def columns(self, law: Law, runs: Runs) -> dict[str, list[float]]:
        """A row a point: measured, predicted and error."""
        return {
            f"{self.name}, {self.unit}": [self.of(run) for run in runs.values()],
            f"{self.name}, predicted": [law(*point) for point in runs],
            f"{self.name}, error %": [self.error(law, point, run) for point, run in runs.items()],
        }


def fitted(point: tuple[int, ...], runs: Runs) -> bool:
    """Whether a point goes into the fit: the fewest and the most learners do, those between are predicted."""
    counts = [learners for learners, *_ in runs]
    return point[0] in (min(counts), max(counts))


def constants(laws: Mapping[str, Law]) -> tuple[Figure, ...]:
    """The constants of all laws."""
    return tuple(
        Figure(f"law of {name}: {term.name}", term.unit, Spread.of([constant * term.factor]))
        for name, law in laws.items()
        for constant, term in zip(law.constants, law.terms, strict=True)
    )
