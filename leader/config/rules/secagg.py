"""Settings that would make a false promise of secure aggregation, each with the reason and what to set instead."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leader.config.run_fields import RunFields
from utils.secagg.ring import COARSE, FEWEST_LEVELS, Ring
from utils.secagg.roster import METRIC_NAME, MOST_METRICS, MOST_SEATS

_SEES_EACH = "which must see each update"


def problems_of_masks(config: RunFields) -> Iterator[str]:
    """One line for each setting that masks can't go with."""
    secagg, aggregate, cohort = config.secagg, config.aggregate, config.cohort
    if secagg.mode == "off":
        return
    masked = f"secagg.mode is {secagg.mode}, but "
    if config.data.holder == "leader":
        yield f"{masked}data.holder is leader, which has the data anyway: set data.holder=learner"
    if secagg.mode == "signed":
        yield from _identities(config)
    if config.exchange == "gradient":
        yield (
            f"{masked}exchange is gradient, where each step would need an unmasking of its own: "
            "set exchange=delta"
        )
    if config.buffer.size:
        yield from _groups(config)
    if config.streaming.fragments:
        yield f"{masked}streaming.fragments is {config.streaming.fragments}: set streaming.fragments=0"
    if aggregate.rule != "mean":
        yield f"{masked}aggregate.rule is {aggregate.rule}, {_SEES_EACH}: set aggregate.rule=mean"
    if aggregate.weighting not in ("examples", "uniform"):
        yield (
            f"{masked}aggregate.weighting is {aggregate.weighting}, {_SEES_EACH}: "
            "set aggregate.weighting=examples"
        )
    for key in ("clip_norm", "reject_norm", "max_share"):
        if getattr(aggregate, key):
            yield f"{masked}aggregate.{key} is set, {_SEES_EACH}: set aggregate.{key}=0"
    if config.codec.up != "none":
        yield (
            f"{masked}codec.up is {config.codec.up}, and masked values can't be encoded further: "
            "set codec.up=none"
        )
    if cohort.policy in ("oort", "power_of_choice"):
        yield f"{masked}cohort.policy is {cohort.policy}, which must see each loss: set cohort.policy=uniform"
    yield from _scores(config)
    yield from _numbers(config)


def _scores(config: RunFields) -> Iterator[str]:
    """Where no sum of scores can be told, or not that which decides."""
    if not config.evaluation.federated_every:
        return
    names = config.summed_scores
    if not 0 < len(names) <= MOST_METRICS or not all(map(METRIC_NAME.fullmatch, names)):
        yield (
            f"secagg.metrics is {config.secagg.metrics!r}, but it names 1 to {MOST_METRICS} scores, each of 1 to 64 "
            "letters, digits, underscores and dots: put a comma between them"
        )
    prefix, _, name = config.evaluation.metric.partition(".")
    if prefix == "federated" and name not in names:
        yield (
            f"evaluation.metric is {config.evaluation.metric}, but secagg.metrics is {config.secagg.metrics}, and "
            f"masked learners tell no other scores: add {name} to secagg.metrics"
        )


def _groups(config: RunFields) -> Iterator[str]:
    """Where groups can't be formed, or would not be all that counts."""
    buffer, size, atwork = config.buffer, config.group_size, config.cohort.size or config.learners
    key = "buffer.group" if buffer.group else "buffer.size"
    if size > buffer.size:
        yield (
            f"buffer.group is {size}, but a round is applied at {buffer.size} updates (buffer.size): set "
            f"buffer.size={size}"
        )
    if size > atwork:
        where = "cohort.size" if config.cohort.size else "learners"
        yield (
            f"{key} is {size}, but {where} is {atwork}, and masks are agreed on by a whole group: set "
            f"buffer.group={max(config.secagg.least, atwork)}, or more learners"
        )
    if config.secagg.bits == COARSE and config.dp.mode != "distributed":
        yield (
            f"secagg.bits is {COARSE}, but buffer.size is {buffer.size}, so that nobody knows in order what was lost "
            "of an update: set secagg.bits=32"
        )


def _identities(config: RunFields) -> Iterator[str]:
    """What learners need to sign with."""
    signed, trust, threshold = "secagg.mode is signed, but ", config.trust, config.secagg.threshold
    if not config.secure:
        yield (
            f"{signed}there is no trust on {config.listen} (trust.mode is {trust.mode}), so that nobody has an "
            "identity to sign with: set trust.mode=on (--secure)"
        )
    if trust.certificate:
        yield (
            f"{signed}trust.certificate is set, and learners sign by identities of the leader's own CA: leave it "
            "out, or set secagg.mode=masked"
        )
    if 0 < threshold < 2 / 3:
        yield (
            f"{signed}secagg.threshold is {threshold:g}, and with a few learners that lie two sums could be agreed to: "
            "set 0, which is two thirds, or more"
        )


def sum_of_least(config: RunFields) -> int:
    """Fewest updates in a sum, as long as the learners waited for stay."""
    secagg, parties = config.secagg, asked(config)
    return max(secagg.least, min(parties, math.floor(parties * (secagg.threshold or 2 / 3)) + 1))


def _awaited(config: RunFields) -> int:
    if config.buffer.size:
        return config.group_size
    return min(config.cohort.size or config.learners, config.learners)


def asked(config: RunFields) -> int:
    """Learners that are asked for one sum."""
    return min(math.ceil(_awaited(config) * config.cohort.over_selection), config.learners)


def closes_on(config: RunFields) -> int:
    """Updates that a sum closes on at its deadline, if the learners waited for stay."""
    if config.buffer.size:
        return sum_of_least(config)
    return max(1, math.ceil(config.cohort.quorum * _awaited(config)))


def _numbers(config: RunFields) -> Iterator[str]:
    secagg, cohort = config.secagg, config.cohort
    if 0 < secagg.threshold < 0.5:
        yield (
            f"secagg.threshold is {secagg.threshold:g}, and two halves of the learners could unmask two sums: "
            "set 0.5 or more, or 0"
        )
    awaited, parties = _awaited(config), asked(config)
    key = "cohort.size" if cohort.size else "learners"
    if config.buffer.size:
        key = "buffer.group" if config.buffer.group else "buffer.size"
    if parties > MOST_SEATS:
        yield (
            f"{key} asks {parties} learners for one masked sum, and no more than {MOST_SEATS} can agree on masks: "
            f"set {key.replace('learners', 'cohort.size')}={MOST_SEATS}, or fewer"
        )
    if parties < secagg.least:
        yield (
            f"{key} is {parties}, but secagg.least is {secagg.least}: "
            "of two, each can compute the other's update; set secagg.least=2 if that does no harm, and start learners "
            "with --least-learners 2"
        )
        return
    if secagg.bits == COARSE and (levels := Ring(COARSE, parties, 1.0).limit) < FEWEST_LEVELS:
        yield (
            f"secagg.bits is {COARSE}, in which a value of one of {parties} learners has {levels} levels to each side, "
            f"and should have {FEWEST_LEVELS}: set secagg.bits=32, or ask fewer a round (cohort.size)"
        )
    need = sum_of_least(config)
    closes = closes_on(config)
    if awaited < need:
        yield (
            f"secagg.threshold needs {need} of {parties} learners, but cohort.over_selection is "
            f"{cohort.over_selection:g}, and lets a round close on {awaited}: set cohort.over_selection=1"
        )
    elif closes < need:
        yield (
            f"secagg.threshold needs {need} of {parties} learners, but cohort.quorum lets a round close on {closes}: "
            f"raise cohort.quorum to {math.ceil(100 * need / awaited) / 100:g}"
        )
