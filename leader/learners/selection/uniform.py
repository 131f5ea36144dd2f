"""Every part is as likely as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leader.learners.selection.base import Candidate, in_order, names
from leader.learners.selection.draws import raw_draws, smallest
from leader.state import History


@dataclass(frozen=True)
class Uniform:
    """Draws uniformly, without replacement."""

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """See Policy.choose; the history makes no difference."""
        ordered = in_order(candidates)
        if not 0 < size < len(ordered):
            return names(ordered)
        draws = raw_draws(len(ordered), seed=seed, round_=round_)
        return names([ordered[i] for i in smallest(draws, size)])
