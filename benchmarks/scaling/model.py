"""The model of cost: a sum of terms in learners and parameters, fitted to measured points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from leader.config import LimitsConfig

_LIMITS = LimitsConfig()


@dataclass(frozen=True)
class Term:
    """One part of a cost: how much of it a run takes with so many learners and parameters, and edges."""

    name: str
    amount: Callable[..., float]  # of a point, as all terms of a law take it, to a count of `unit`
    unit: str  # of the constant, for people
    factor: float  # from the constant to that unit


@dataclass(frozen=True)
class Law:
    """A cost as a sum of terms; constants are never negative, because nothing is gained by more work."""

    terms: tuple[Term, ...]
    constants: tuple[float, ...]

    def __call__(self, *point: float) -> float:
        """The cost of a run with so many learners and parameters, and edges where the terms have them."""
        return sum(
            constant * term.amount(*point) for constant, term in zip(self.constants, self.terms, strict=True)
        )


def held_bytes(learners: float, parameters: float) -> float:
    """Most bytes of uploads in the leader at once: those that the budget lets in, and the windows of the others."""
    update = 4 * parameters
    admitted = min(learners, max(1.0, _LIMITS.upload_bytes // (update + _LIMITS.header_bytes)))
    return admitted * update + (learners - admitted) * min(update, _LIMITS.window_bytes)


def _of_time(unit: str, factor: float) -> tuple[Term, ...]:
    return (
        Term("a round", lambda learners, parameters: 1.0, unit, factor),
        Term("a learner", lambda learners, parameters: learners, unit, factor),
        Term("a million parameters", lambda learners, parameters: parameters / 1e6, unit, factor),
        Term(
            "a learner and a million parameters",
            lambda learners, parameters: learners * parameters / 1e6,
            unit,
            factor,
        ),
    )


SECONDS = _of_time("ms", 1e3)
BYTES = (
    Term("a learner", lambda learners, parameters: learners, "bytes", 1.0),
    Term("a learner and parameter", lambda learners, parameters: learners * parameters, "bytes", 1.0),
)
MEMORY = (
    Term("a leader", lambda learners, parameters: 1.0, "MB", 1e-6),
    Term("a parameter", lambda learners, parameters: parameters, "bytes", 1.0),
    Term("a byte of uploads that is held", held_bytes, "bytes", 1.0),
)


#: Behind edges, by (learners, parameters, edges).
EDGE_SECONDS = (
    Term("a round", lambda learners, parameters, edges: 1.0, "ms", 1e3),
    Term("a learner", lambda learners, parameters, edges: learners, "ms", 1e3),
    Term("a million parameters", lambda learners, parameters, edges: parameters / 1e6, "ms", 1e3),
    Term(
        "an edge and a million parameters",
        lambda learners, parameters, edges: edges * parameters / 1e6,
        "ms",
        1e3,
    ),
    # On one machine alone: what edges and learners do then slows the leader down, on whichever core it is.
    Term(
        "a learner and a million parameters beside it",
        lambda learners, parameters, edges: learners * parameters / 1e6,
        "ms",
        1e3,
    ),
)
EDGE_BYTES = (
    Term("a learner", lambda learners, parameters, edges: learners, "bytes", 1.0),
    Term("an edge and parameter", lambda learners, parameters, edges: edges * parameters, "bytes", 1.0),
)


def fit(terms: Sequence[Term], points: Sequence[tuple[float, ...]], values: Sequence[float]) -> Law:
    """The law that makes the squares of the relative errors least, with no constant below zero.

    `points` are what the terms take. The best set of terms whose constants come out positive is
    found by trying all sets (non-negative least squares; there are few terms).
    """
    rows = np.array([[term.amount(*point) for term in terms] for point in points]) / np.array(values)[:, None]
    every = range(len(terms))
    sets = chain.from_iterable(combinations(every, size) for size in range(1, len(terms) + 1))
    solved = [solution for kept in sets if (solution := _solve(rows, kept)) is not None]
    best = min(solved, key=lambda constants: float(((rows @ constants - 1) ** 2).sum()))
    return Law(tuple(terms), tuple(float(constant) for constant in best))


def _solve(rows: NDArray[np.float64], kept: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Constants of the kept terms, the others 0; None if one of them is negative."""
    part = rows[:, kept]
    scale = np.abs(part).max(axis=0)  # columns differ by many powers of ten
    found = np.linalg.lstsq(part / scale, np.ones(len(rows)), rcond=None)[0] / scale
    if (found < 0).any():
        return None
    constants = np.zeros(rows.shape[1])
    constants[list(kept)] = found
    return constants
