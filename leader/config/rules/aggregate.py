"""Ways to make one of many updates that don't go together, and how many updates a rule needs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leader.config.run_fields import RunFields

#: Updates that a rule needs to withstand f malicious ones: this many times f, and so many more.
_NEEDS = {
    "median": (2, 1),
    "geometric_median": (2, 1),
    "trimmed_mean": (2, 1),
    "krum": (2, 3),
    "multi_krum": (2, 3),
    "bulyan": (4, 3),
}
#: Rules that keep the scalar products of all pairs of updates.
_PAIRWISE = ("krum", "multi_krum", "bulyan", "geometric_median")
_PRODUCT_BYTES = 8


def least_updates(rule: str, byzantine: int) -> int:
    """Fewest updates with which `aggregate.rule` withstands `byzantine` malicious ones; 1 for the mean."""
    factor, more = _NEEDS.get(rule, (0, 1))
    return factor * byzantine + more


def updates_a_round(config: RunFields) -> int:
    """Fewest updates that a round of this run closes on, as long as the learners waited for stay."""
    return max(1, math.ceil(config.cohort.quorum * config.updates_awaited))


def robust(config: RunFields) -> Iterator[str]:
    aggregate = config.aggregate
    rule, byzantine = aggregate.rule, aggregate.byzantine
    if rule == "mean":
        if byzantine and not (aggregate.clip_norm or aggregate.reject_norm):
            yield (
                f"aggregate.byzantine is {byzantine} but aggregate.rule is mean, which one malicious update sways: "
                "choose a robust rule such as median, or bound the updates with aggregate.clip_norm"
            )
        return
    updates, needed = updates_a_round(config), least_updates(rule, byzantine)
    if updates < needed:
        factor, more = _NEEDS[rule]
        yield (
            f"aggregate.rule is {rule} and aggregate.byzantine is {byzantine}, which needs {factor} x {byzantine} "
            f"+ {more} = {needed} updates, but a round may close on {updates}: lower aggregate.byzantine, or "
            "let more updates in (learners, cohort.size, cohort.quorum, buffer.size)"
        )
    most = config.updates_awaited
    if rule in _PAIRWISE and (pairs := _PRODUCT_BYTES * most**2) > aggregate.spool_bytes:
        yield (
            f"aggregate.rule is {rule}, which compares all pairs of {most} updates in {pairs} bytes, more "
            f"than aggregate.spool_bytes: raise that to {pairs}, or set aggregate.rule=median"
        )


def norms(config: RunFields) -> Iterator[str]:
    clip, reject = config.aggregate.clip_norm, config.aggregate.reject_norm
    if 0 < reject <= clip:
        yield (
            f"aggregate.reject_norm is {reject:g} and aggregate.clip_norm is {clip:g}, so that nothing is left to "
            "clip: set a clip_norm below the reject_norm, or 0"
        )


def weighting(config: RunFields) -> Iterator[str]:
    rule, weighting = config.aggregate.rule, config.aggregate.weighting
    if weighting not in ("fednova", "qfedavg"):
        return
    if rule != "mean":
        yield (
            f"aggregate.weighting is {weighting}, which weighs a mean, but aggregate.rule is {rule}, which counts "
            "each update once: choose aggregate.weighting=uniform"
        )
    if config.exchange == "gradient":
        yield (
            f"aggregate.weighting is {weighting}, which is about local steps, but exchange is gradient: "
            "set aggregate.weighting=examples"
        )
    if weighting == "fednova" and config.train.proximal_mu:
        yield (
            "aggregate.weighting is fednova, which knows how much work plain local steps are, but train.proximal_mu "
            f"is {config.train.proximal_mu:g}, which damps them: set train.proximal_mu=0"
        )
    if weighting == "qfedavg" and config.buffer.size:
        yield (
            "aggregate.weighting is qfedavg, which compares losses of one and the same model, but buffer.size is "
            f"{config.buffer.size}, so that updates start from several: set buffer.size=0"
        )


def max_share(config: RunFields) -> Iterator[str]:
    aggregate, size = config.aggregate, config.buffer.size
    if aggregate.max_share in (0, 1):
        return
    begins = f"aggregate.max_share is {aggregate.max_share:g}, which caps what examples count in a mean, but "
    if aggregate.rule != "mean":
        yield f"{begins}aggregate.rule is {aggregate.rule}, under which all count the same: leave it 0"
    if aggregate.weighting != "examples":
        yield f"{begins}aggregate.weighting is {aggregate.weighting}: set aggregate.weighting=examples"
    if size:
        yield f"{begins}buffer.size is {size}, so that nobody knows whose updates meet: set aggregate.weighting=uniform"
    elif aggregate.max_share * (updates := updates_a_round(config)) < 0.999:
        yield (
            f"{begins}a round may close on {updates} updates, of which one is at least {1 / updates:.4g}: raise it to "
            "that, or let more updates in (learners, cohort.size, cohort.quorum)"
        )
