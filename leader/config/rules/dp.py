"""What differential privacy does not go together with, and how many rounds its budget has to pay."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leader.config.rules.secagg import asked, closes_on, sum_of_least
from leader.config.run_fields import RunFields
from utils.dp.discrete_gaussian import DiscreteGaussian
from utils.dp.gaussian import releases_within
from utils.dp.sampled_gaussian import LEAST
from utils.dp.shares import room_of


def releases_a_part(config: RunFields) -> int:
    """How many rounds each part must be able to pay for the run to reach its last one, however cohorts are drawn."""
    if config.group_size > 1:
        return _releases_in_groups(config)
    return releases_needed(config.rounds, config.parts_held, config.updates_awaited)


def _releases_in_groups(config: RunFields) -> int:
    """The same where groups are of whoever is idle: all of a round may be of the same few parts."""
    size, updates = config.group_size, config.buffer.size
    most = config.rounds * math.ceil(updates / sum_of_least(config))
    # As long as a group of others can pay, those that have spent their budget sit out.
    return min(most, config.rounds * (updates + size - 1) // max(1, config.parts_held - size + 1) + 1)


def orders_a_learner(config: RunFields) -> int:
    """How many orders each learner must be able to pay by itself (dp.mode=examples) for the run to reach its end.

    In an asynchronous run as many as make up all buffers, and the one that it is at then: who is quicker, and has
    spent its budget, leaves, and the others go on.
    """
    if not config.buffer.size:
        return config.rounds
    updates = math.ceil(config.buffer.size / config.group_size) * config.group_size
    return config.rounds * updates // config.parts_held + 1


def releases_needed(rounds: int, parts: int, cohort: int) -> int:
    """The same for so many rounds, parts, and parts in each round.

    Parts that have spent their budget sit out. When fewer than a cohort are left, each of the others has paid all
    that it could.
    """
    return min(rounds, (rounds - 1) * cohort // (parts - cohort + 1) + 1)


def problems_of_privacy(config: RunFields) -> Iterator[str]:
    """One line for each combination that would make a promise that does not hold, or that can't be paid."""
    if config.dp.mode == "examples":
        yield from _examples_told(config)
    elif config.dp.on:
        yield from _unclipped(config)
        yield from _telling(config)
        if config.dp.mode == "distributed":
            yield from _unshared(config)
        yield from _unpaid(config)


def _examples_told(config: RunFields) -> Iterator[str]:
    """Where examples can't be told apart, or more of them is told than what their noisy steps make."""
    begins, train = "dp.mode is examples, but ", config.train
    if config.data.holder == "leader":
        yield f"{begins}data.holder is leader, which has the data anyway: set data.holder=learner"
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, in which learners make no steps of their own: set exchange=delta"
    if config.model.norm == "batch" and config.model.name and not config.model.task:
        yield f"{begins}model.norm is batch, which mixes examples, so that none can be clipped: set model.norm=group"
    if train.control_variates or train.personal_lambda:
        key = "control_variates" if train.control_variates else "personal_lambda"
        yield f"{begins}train.{key} is set, whose other steps have no noise: set train.{key}=0"
    if config.streaming.fragments:
        yield f"{begins}streaming.fragments is {config.streaming.fragments}: set streaming.fragments=0"
    if config.dp.clip_quantile:
        yield f"{begins}dp.clip_quantile is {config.dp.clip_quantile:g}, which is of updates: set dp.clip_quantile=0"
    if 0 < (noise := config.dp.noise_multiplier) < LEAST:
        yield f"{begins}dp.noise_multiplier is {noise:g}, of which no epsilon can be told: set 0, or {LEAST:g} or more"
    if config.aggregate.weighting == "qfedavg":
        yield f"{begins}aggregate.weighting is qfedavg, which looks at losses: set aggregate.weighting=examples"
    yield from _telling(config)


def _unclipped(config: RunFields) -> Iterator[str]:
    """Where an update counts by more than its clipped values."""
    begins, aggregate = f"dp.mode is {config.dp.mode}, but ", config.aggregate
    if config.secagg.mode != "off" and config.dp.mode == "central":
        yield (
            f"{begins}secagg.mode is {config.secagg.mode}, so that the leader, which clips, sees no update: set "
            "secagg.mode=off"
        )
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, where each step would be paid alone: set exchange=delta"
    if config.buffer.size and config.dp.mode == "central":
        yield f"{begins}buffer.size is {config.buffer.size}, so that nobody plans who pays a round: set buffer.size=0"
    if config.model.norm == "batch" and config.model.name and not (config.model.task or config.model.local):
        yield (
            f"{begins}model.norm is batch, whose statistics are not clipped: set model.norm=group, or "
            "model.local='*.norm.*'"
        )
    if aggregate.rule != "mean":
        yield f"{begins}aggregate.rule is {aggregate.rule}, which has no noise of its own: set aggregate.rule=mean"
    if aggregate.weighting != "uniform":
        yield (
            f"{begins}aggregate.weighting is {aggregate.weighting}, so that some updates count more than the noise "
            "is made for: set aggregate.weighting=uniform"
        )
    for name in ("clip_norm", "reject_norm"):
        if bound := getattr(aggregate, name):
            yield f"{begins}aggregate.{name} is {bound:g}, and updates are clipped to dp.clip: set aggregate.{name}=0"
    if config.train.control_variates:
        yield (
            f"{begins}train.control_variates is true, whose variates are made of updates without noise: set "
            "train.control_variates=false"
        )


def _unshared(config: RunFields) -> Iterator[str]:
    """Where the learners' shares of the noise are not enough, or don't fit."""
    dp, secagg = config.dp, config.secagg
    if secagg.mode == "off":
        yield (
            "dp.mode is distributed, but secagg.mode is off, so that each update would come with a share of the noise "
            "alone: set secagg.mode=masked"
        )
        return
    if config.buffer.size and dp.clip_quantile:
        yield (
            f"dp.clip_quantile is {dp.clip_quantile:g}, but buffer.size is {config.buffer.size}, so that updates of "
            "several clips meet: set dp.clip_quantile=0"
        )
    fewest, parties = max(sum_of_least(config), closes_on(config)), asked(config)
    shares = shares_counted(fewest, parties, dp.colluding)
    if shares < 1:
        yield (
            f"dp.colluding is {dp.colluding:g}, by which the noise of none of the {fewest} learners counts that a "
            "round may close on: lower it, or raise cohort.quorum"
        )
        return
    least, needed = DiscreteGaussian(()), releases_a_part(config)
    reach = least.accounted * math.sqrt(shares) / dp.noise(needed)
    if reach + least.peak > room_of(secagg.bits, parties):
        yield (
            f"secagg.bits is {secagg.bits}, in which sums of {parties} updates with noise of {dp.noise(needed):g} "
            f"times their length have no room: set secagg.bits={2 * secagg.bits}, or raise dp.noise_multiplier"
        )


def shares_counted(in_sum: int, parties: int, colluding: float) -> int:
    """Of a sum of so many updates, how many bring noise that nobody else knows, whoever of the parties colludes."""
    return in_sum - math.ceil(colluding * parties - 1e-9)


def _telling(config: RunFields) -> Iterator[str]:
    """Where more becomes known than the noisy sums."""
    begins = f"dp.mode is {config.dp.mode}, but "
    if config.evaluation.federated_every:
        yield (
            f"{begins}evaluation.federated_every is {config.evaluation.federated_every}, and what learners score has "
            "no noise: set evaluation.federated_every=0"
        )
    if config.cohort.policy in ("oort", "power_of_choice"):
        yield (
            f"{begins}cohort.policy is {config.cohort.policy}, which looks at losses without noise: set "
            "cohort.policy=uniform"
        )


def _unpaid(config: RunFields) -> Iterator[str]:
    if config.buffer.size and config.group_size == 1:
        return
    dp, needed = config.dp, releases_a_part(config)
    if dp.sampling == "poisson":
        yield (
            "dp.sampling is poisson, for which this release has no accountant: set dp.sampling=none, by which "
            "learners pay for the rounds that they are in"
        )
        return
    paid = releases_within(dp.epsilon, dp.delta, dp.noise(needed))
    if paid < needed:
        least = dp.model_copy(update={"noise_multiplier": 0.0}).noise(needed)
        yield (
            f"dp.epsilon is {dp.epsilon:g}, which pays a learner {paid} rounds at dp.noise_multiplier="
            f"{dp.noise_multiplier:g}, but {config.rounds} rounds may need {needed} of one: set dp.noise_multiplier="
            f"{least:g} (or 0, which is the least that pays), lower rounds, or raise dp.epsilon"
        )
