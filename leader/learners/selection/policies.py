"""The policies that fit in a few lines, and which policy a run has asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from leader.config import CohortConfig
from leader.learners.selection.base import Draw, Policy
from leader.learners.selection.draws import smallest, smallest_draws, weighted
from leader.learners.selection.oort import Oort


def make_policy(config: CohortConfig) -> Policy:
    """The policy of cohort.policy."""
    policies: dict[str, Policy] = {
        "uniform": Uniform(),
        "by_examples": ByExamples(),
        "round_robin": RoundRobin(),
        "power_of_choice": PowerOfChoice(config.candidates),
        "oort": Oort(),
    }
    return policies[config.policy]


@dataclass(frozen=True)
class Uniform(Policy):
    """Every part is as likely as any other: draws uniformly, without replacement, whatever the history."""

    def pick(self, draw: Draw) -> Iterable[int]:
        """See Policy.pick."""
        return smallest_draws(draw.array(), draw.size)


@dataclass(frozen=True)
class ByExamples(Policy):
    """Draws one part after another without replacement, in proportion to the examples of those left.

    Goes with aggregate.weighting=uniform: weighting the mean by examples too counts them twice (Li et al.
    2020, https://arxiv.org/abs/1907.02189, schemes I and II). The history makes no difference.
    """

    def pick(self, draw: Draw) -> Iterable[int]:
        """See Policy.pick."""
        return weighted(draw.examples, draw.size, draw.raw())


@dataclass(frozen=True)
class RoundRobin(Policy):
    """Takes those whose updates are in the fewest committed rounds; among equals the draw decides.

    So the counts of parts that always answer differ by at most 1. A part that never answers stays first in
    line, and a part that joins late is taken until it has caught up.
    """

    def pick(self, draw: Draw) -> Iterable[int]:
        """See Policy.pick."""
        times = [draw.history[c.part].times if c.part in draw.history else 0 for c in draw.candidates]
        turns = [(count << 64) + raw for count, raw in zip(times, draw.raw(), strict=True)]  # raw < 2**64
        return smallest(turns, draw.size)


@dataclass(frozen=True)
class PowerOfChoice(Policy):
    """The parts that the model is worst on, out of a few that are drawn by their examples.

    Cho, Wang & Joshi 2020, https://arxiv.org/abs/2010.01243, section 3, in the variant that asks nobody for a
    loss before the draw (rpow-d): a part's loss is the one that it told with its last update. A part that
    never told one counts as the worst. A learner that lies about its loss is chosen as often as it likes to be.
    """

    candidates: int = 0  # how many are drawn (d of the paper), at least the size; 0 = twice the size

    def pick(self, draw: Draw) -> Iterable[int]:
        """See Policy.pick."""
        drawn = weighted(draw.examples, max(draw.size, self.candidates or 2 * draw.size), draw.raw())
        losses = [math.inf if loss is None else loss for loss in draw.losses]
        return sorted(drawn, key=lambda i: -losses[i])[: draw.size]  # equal ones stay as drawn
