"""Weightings: what each update counts in the exact mean.

An update counts with an integer weight and a float64 factor. The factor multiplies its values
before they become fixed point, so that the sum stays exact and independent of the order; the mean
is sum(weight * factor * values) / sum(weight), and `finish` may rescale it as a whole.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from leader.aggregation.norms import check_norm, clip_factor
from leader.config import RunConfig
from utils.errors import PayloadError

#: Losses beyond this are no losses; within it no power or product below overflows a float64.
_MAX_START_LOSS = 2.0**64
_LEAST_START_LOSS = 1e-10  # stands for 0, whose negative powers are infinite


@dataclass(frozen=True)
class Facts:
    """What a weighting may know of an update."""

    examples: int
    local_steps: int = 1  # 0 of an update that brings scores alone; no weighting is asked for its factor
    loss: float = math.nan  # NaN if not said, as the next one
    start_loss: float = math.nan
    staleness: int = 0
    updates: int = 1  # of which it is the mean
    squared_norm: float = 0.0  # of the parameters' part; 0 unless the weighting needs norms


@dataclass(frozen=True)
class Weighting:
    """What an update counts in the mean: its number of examples, unless a kind below says otherwise."""

    @property
    def needs_norm(self) -> bool:
        """Whether `Facts.squared_norm` must be computed."""
        return False

    def weight(self, facts: Facts) -> int:
        """Integer weight: its share of the divisor."""
        return facts.examples

    def factor(self, facts: Facts) -> float:
        """What its values are multiplied by; raises the WireError that the update is refused with."""
        return 1.0

    def finish(self, facts: Collection[Facts]) -> float:
        """Positive scalar that multiplies the mean of these updates, in whatever order they stand."""
        return 1.0


class ByExamples(Weighting):
    """McMahan et al. 2017, algorithm 1: each update counts by its number of examples."""


class Uniform(Weighting):
    """Each update counts the same."""

    def weight(self, facts: Facts) -> int:
        """One for each update."""
        return facts.updates


@dataclass(frozen=True)
class FedNova(Weighting):
    """FedNova (Wang et al. 2020, eq. 6-8): updates are normalised by the local work behind them.

    w = w + tau_eff * sum p_i delta_i / ||a_i||_1, p_i the share of examples and
    tau_eff = sum p_i ||a_i||_1. a_i is how much each local gradient weighs in delta_i; its sum over tau
    steps of SGD with momentum rho is [tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho), and with
    Nesterov momentum as torch.optim.SGD has it [tau - rho^2 (1 - rho^tau) / (1 - rho)] / (1 - rho).
    """

    momentum: float = 0.0  # rho of the local optimizer
    nesterov: bool = False

    def factor(self, facts: Facts) -> float:
        """1 / ||a_i||_1."""
        return 1 / self.norm(facts.local_steps)

    def finish(self, facts: Collection[Facts]) -> float:
        """tau_eff."""
        examples = sum(one.examples for one in facts)
        return math.fsum(one.examples * self.norm(one.local_steps) for one in facts) / examples

    def norm(self, steps: int) -> float:
        """||a||_1 of `steps` local steps."""
        rho = self.momentum
        first = rho * rho if self.nesterov else rho
        return (steps - first * (1 - rho**steps) / (1 - rho)) / (1 - rho)


@dataclass(frozen=True)
class QFedAvg(Uniform):
    """q-FedAvg (Li et al. 2020, "Fair resource allocation", algorithm 2): high losses count more.

    With F_k the loss of the common model on learner k's examples, Delta_k = L (w - w_k) and
    h_k = q F_k^(q-1) ||Delta_k||^2 + L F_k^q, it is w = w - sum F_k^q Delta_k / sum h_k. As a mean of
    n updates delta_k = w_k - w that is factor F_k^q and scalar n L / sum h_k. With q = 0 it is the
    uniform mean.
    """

    q: float
    lipschitz: float  # L: one over the local learning rate
    needs_norm: ClassVar[bool] = True

    def factor(self, facts: Facts) -> float:
        """F^q; raises PayloadError without a loss that can be one."""
        if not 0 <= facts.start_loss <= _MAX_START_LOSS:
            raise PayloadError(
                f"update tells a start_loss of {facts.start_loss:g}; aggregate.weighting=qfedavg needs the "
                f"model's mean loss before training, from 0 to {_MAX_START_LOSS:g}"
            )
        return math.pow(self._loss(facts), self.q)

    def finish(self, facts: Collection[Facts]) -> float:
        """n L / sum h."""
        return len(facts) * self.lipschitz / math.fsum(map(self._step_bound, facts))

    def _step_bound(self, facts: Facts) -> float:
        loss, squared = self._loss(facts), self.lipschitz**2 * facts.squared_norm
        return self.q * math.pow(loss, self.q - 1) * squared + self.lipschitz * math.pow(loss, self.q)

    def _loss(self, facts: Facts) -> float:
        return max(facts.start_loss, _LEAST_START_LOSS)


@dataclass(frozen=True)
class _Around(Weighting):
    """Changes what an update counts by another weighting."""

    inner: Weighting

    @property
    def needs_norm(self) -> bool:
        return self.inner.needs_norm

    def weight(self, facts: Facts) -> int:
        return self.inner.weight(facts)

    def finish(self, facts: Collection[Facts]) -> float:
        return self.inner.finish(facts)


@dataclass(frozen=True)
class Stale(_Around):
    """FedBuff (Nguyen et al. 2022, section 5): an update s rounds old counts (1 + s)^-exponent.

    The divisor stays that of fresh updates, so a mean of stale ones is a smaller step.
    """

    exponent: float

    def factor(self, facts: Facts) -> float:
        """The inner factor, less with age."""
        return self.inner.factor(facts) * math.pow(1 + facts.staleness, -self.exponent)


@dataclass(frozen=True)
class Clipped(_Around):
    """Updates count as if their parameters' L2 norm were at most `clip_norm`; no weight knows a norm."""

    clip_norm: float
    needs_norm: ClassVar[bool] = True

    def factor(self, facts: Facts) -> float:
        """The inner factor times min(1, clip_norm / norm)."""
        return self.inner.factor(self._clipped(facts)) * clip_factor(facts.squared_norm, self.clip_norm)

    def finish(self, facts: Collection[Facts]) -> float:
        """As the inner weighting has it for the clipped updates."""
        return self.inner.finish([self._clipped(one) for one in facts])

    def _clipped(self, facts: Facts) -> Facts:
        return replace(facts, squared_norm=min(facts.squared_norm, self.clip_norm**2))


@dataclass(frozen=True)
class Bounded(_Around):
    """Updates whose parameters' L2 norm is beyond `reject_norm` are refused."""

    reject_norm: float
    needs_norm: ClassVar[bool] = True

    def factor(self, facts: Facts) -> float:
        """The inner factor; raises ValueRangeError for too large a norm."""
        check_norm(facts.squared_norm, self.reject_norm)
        return self.inner.factor(facts)


def heaviest(others: Iterable[int], share: float) -> int:
    """The largest weight that is no more than `share` of a sum of itself and `others`, all capped at it.

    The least of the others where there is none, as too few of them are there: then all count the same.

    >>> heaviest([30, 20, 50], 0.5), heaviest([1000, 30, 30], 0.4), heaviest([7, 5], 0.1)
    (100, 120, 5)
    """
    weights, limit = sorted(others, reverse=True), Fraction(share)
    for count, next_heaviest in enumerate(weights, 1):  # of those that are capped
        if count * limit >= 1:
            break
        most = limit * sum(weights[count - 1 :]) / (1 - count * limit)
        if most >= next_heaviest:
            return math.floor(most)
    return weights[-1] if weights else sys.maxsize


def make_weighting(config: RunConfig) -> Weighting:
    """The weighting that a run asks for: what counts, then staleness and bounds on the norm."""
    train, aggregate = config.train, config.aggregate
    weighting: Weighting
    match aggregate.weighting:
        case "examples":
            weighting = ByExamples()
        case "uniform":
            weighting = Uniform()
        case "fednova":
            weighting = FedNova(train.momentum, train.nesterov)
        case "qfedavg":
            weighting = QFedAvg(aggregate.q, 1 / train.lr)
    if config.buffer.size:
        weighting = Stale(weighting, config.buffer.exponent)
    if aggregate.clip_norm:
        weighting = Clipped(weighting, aggregate.clip_norm)
    if aggregate.reject_norm:
        weighting = Bounded(weighting, aggregate.reject_norm)
    return weighting
