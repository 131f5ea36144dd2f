"""The parts that the model is worst on, out of a random few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leader.learners.selection.base import Candidate, in_order, last_loss, names
from leader.learners.selection.draws import raw_draws, weighted
from leader.state import History


@dataclass(frozen=True)
class PowerOfChoice:
    """Draws some candidates by their examples and takes those of them with the highest loss.

    Cho, Wang & Joshi 2020, https://arxiv.org/abs/2010.01243, section 3, in the variant that asks nobody for a
    loss before the draw (rpow-d): a part's loss is the one that it told with its last update. A part that
    never told one counts as the worst. A learner that lies about its loss is chosen as often as it likes to be.
    """

    candidates: int = 0  # how many are drawn (d of the paper), at least the size; 0 = twice the size

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """See Policy.choose."""
        ordered = in_order(candidates)
        if not 0 < size < len(ordered):
            return names(ordered)
        draws = raw_draws(len(ordered), seed=seed, round_=round_)
        examples = [candidate.examples for candidate in ordered]
        drawn = weighted(examples, max(size, self.candidates or 2 * size), draws)
        losses = [last_loss(history, candidate.part) for candidate in ordered]
        worst = sorted(drawn, key=lambda i: -_or_highest(losses[i]))  # equal ones stay as drawn
        return names([ordered[i] for i in worst[:size]])


def _or_highest(loss: float | None) -> float:
    return math.inf if loss is None else loss
