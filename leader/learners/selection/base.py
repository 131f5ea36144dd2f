"""What a selection policy is: a function of the parts, their history, the seed and the round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from leader.state import History


@dataclass(frozen=True)
class Candidate:
    """A part that could take part."""

    part: str
    examples: int


class Policy(Protocol):
    """Draws the parts of a round."""

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """`size` different parts in sorted order; all of them where `size` is 0 or no smaller than their number.

        Depends on the arguments alone, and not on the order of candidates or history.
        """
        ...


def in_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates by the names of their parts."""
    return sorted(candidates, key=lambda candidate: candidate.part)


def names(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The parts of the candidates, sorted."""
    return tuple(sorted(candidate.part for candidate in candidates))


def last_loss(history: History, part: str) -> float | None:
    """The loss that the part told last; None if it never did."""
    known = history.get(part)
    return None if known is None or math.isnan(known.loss) else known.loss
