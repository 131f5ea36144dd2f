"""The parts that help most: a high loss on many examples, and a fast answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leader.learners.selection.base import Candidate, Draw, Policy
from leader.learners.selection.draws import smallest, unit, weighted
from leader.state import History, PartHistory

_EXPLORE_FIRST, _EXPLORE_LAST, _EXPLORE_DECAY = 0.9, 0.2, 0.98
_CLIP = 0.95  # quantile that statistical utilities are cut off at
_CUTOFF = 0.95  # share of the last useful one's utility that a part must have to be drawn
_IN_TIME = 0.8  # quantile of durations that counts as in time (T of the paper)
_PENALTY = 2.0  # alpha of the paper


@dataclass(frozen=True)
class Oort(Policy):
    """Explores a share of parts never seen, and draws the rest among the most useful ones.

    Lai et al. 2021, https://arxiv.org/abs/2010.06081, algorithm 1. The utility of a part is its statistical
    utility, plus sqrt(0.1 ln R / last round) for what is out of date, times (T / t)**2 if its duration t is
    longer than T. The share explored falls from 0.9 to 0.2 by the factor 0.98 a round.

    Simplified: the statistical utility |B| sqrt(mean of squared losses) is examples x last mean loss, since
    learners tell no loss of single examples; it is divided by the largest, as the paper's second term
    has no unit. T is a quantile of the durations known now, not adapted by a pacer. Parts never seen are
    drawn uniformly, not by their speed. Parts chosen often are not barred.

    Durations are wall time, so two runs differ where clocks do; but a run resumed from a checkpoint
    draws the same next cohort.
    """

    def pick(self, draw: Draw) -> Iterable[int]:
        """See Policy.pick; a part that never told a loss counts as never seen."""
        *raw, last = draw.raw(more=1)
        seen = [i for i, loss in enumerate(draw.losses) if loss is not None]
        unseen = sorted(set(range(len(raw))) - set(seen))
        # Rounded up or down by the draw, so that small cohorts explore in some rounds and not in others.
        explored = min(len(unseen), math.floor(exploration(draw.round) * draw.size + unit(last)))
        explored = max(explored, draw.size - len(seen))
        new = [unseen[i] for i in smallest([raw[i] for i in unseen], explored)]
        values = utilities([draw.candidates[i] for i in seen], draw.history, round_=draw.round)
        useful = _draw_useful(values, draw.size - explored, [raw[i] for i in seen])
        return [*new, *(seen[i] for i in useful)]


def exploration(round_: int) -> float:
    """Share of a cohort that goes to parts never seen."""
    return max(_EXPLORE_LAST, _EXPLORE_FIRST * _EXPLORE_DECAY ** (round_ - 1))


def utilities(candidates: Sequence[Candidate], history: History, *, round_: int) -> list[float]:
    """The utility of each candidate in this round; all of them have a history with a loss."""
    if not candidates:
        return []
    pasts = [history[candidate.part] for candidate in candidates]
    statistical = [c.examples * abs(past.loss) for c, past in zip(candidates, pasts, strict=True)]
    highest = _quantile(statistical, _CLIP) or 1.0  # all losses may be 0
    in_time_s = _quantile([past.seconds for past in pasts], _IN_TIME)
    return [
        (min(1.0, value / highest) + math.sqrt(0.1 * math.log(round_) / past.last_round))
        * _slowness(past, in_time_s)
        for value, past in zip(statistical, pasts, strict=True)
    ]


def _slowness(past: PartHistory, in_time_s: float) -> float:
    return (in_time_s / past.seconds) ** _PENALTY if past.seconds > in_time_s else 1.0


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _draw_useful(values: Sequence[float], count: int, draws: Sequence[int]) -> list[int]:
    """Positions of `count` values, drawn in proportion to them among those near the highest."""
    if count == 0:
        return []
    cutoff = _CUTOFF * sorted(values, reverse=True)[count - 1]
    pool = [i for i, value in enumerate(values) if value >= cutoff]
    drawn = weighted([values[i] for i in pool], count, [draws[i] for i in pool])
    return [pool[i] for i in drawn]
