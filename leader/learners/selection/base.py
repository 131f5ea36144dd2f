"""What a selection policy is: a function of the parts, their history, the seed and the round."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from leader.learners.selection.draws import raw_draws
from leader.state import History


@dataclass(frozen=True, slots=True)
class Candidate:
    """A part that could take part."""

    part: str
    examples: int


@dataclass(frozen=True)
class Draw:
    """What a policy picks from, `size` of more candidates."""

    candidates: Sequence[Candidate]  # by the names of their parts
    size: int
    history: History
    seed: int
    round: int

    def raw(self, more: int = 0) -> list[int]:
        """Random integers below 2**64, one a candidate, and `more`."""
        raw: list[int] = self.array(more).tolist()
        return raw

    def array(self, more: int = 0) -> NDArray[np.uint64]:
        """The same as an array."""
        return raw_draws(len(self.candidates) + more, seed=self.seed, round_=self.round)

    @property
    def examples(self) -> list[int]:
        """Of each candidate."""
        return [candidate.examples for candidate in self.candidates]

    @property
    def losses(self) -> list[float | None]:
        """The loss that each candidate told last; None if it never did."""
        pasts = [self.history.get(candidate.part) for candidate in self.candidates]
        return [None if past is None or math.isnan(past.loss) else past.loss for past in pasts]


class Policy(ABC):
    """Draws the parts of a round."""

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """`size` different parts in sorted order; all of them where `size` is 0 or no smaller than their number.

        Depends on the arguments alone, and not on the order of candidates or history.
        """
        ordered = sorted(candidates, key=attrgetter("part"))
        return self.choose_of(ordered, size, history, seed=seed, round_=round_)

    def choose_of(
        self, ordered: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """`choose` of candidates that are by the names of their parts already."""
        picked: Iterable[int] = range(len(ordered))
        if 0 < size < len(ordered):
            picked = self.pick(Draw(ordered, size, history, seed, round_))
        return tuple(sorted(ordered[i].part for i in picked))

    @abstractmethod
    def pick(self, draw: Draw) -> Iterable[int]:
        """Positions of `draw.size` different candidates, in any order."""
