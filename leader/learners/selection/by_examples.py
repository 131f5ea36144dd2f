"""Parts with more examples are drawn more often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leader.learners.selection.base import Candidate, in_order, names
from leader.learners.selection.draws import raw_draws, weighted
from leader.state import History


@dataclass(frozen=True)
class ByExamples:
    """Draws one part after another without replacement, in proportion to the examples of those left.

    Goes with aggregate.weighting=uniform: weighting the mean by examples too counts them twice (Li et al.
    2020, https://arxiv.org/abs/1907.02189, schemes I and II).
    """

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """See Policy.choose; the history makes no difference."""
        ordered = in_order(candidates)
        if not 0 < size < len(ordered):
            return names(ordered)
        draws = raw_draws(len(ordered), seed=seed, round_=round_)
        examples = [candidate.examples for candidate in ordered]
        return names([ordered[i] for i in weighted(examples, size, draws)])
