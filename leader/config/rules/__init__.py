"""Settings that make no sense together, each refused with the reason before anything starts."""

from __future__ import annotations

from leader.config.rules import aggregate, dp, edges, rounds, secagg, training, trust
from leader.config.run_fields import RunFields


def problems(config: RunFields) -> list[str]:
    """One line for each combination of settings that can't work: the reason, and what to set instead."""
    checks = (
        *(aggregate.robust, aggregate.norms, aggregate.weighting, aggregate.max_share),
        *(training.gradient, training.scaffold, training.codec, training.streaming),
        *(rounds.buffer, rounds.cohort, rounds.data, rounds.model, rounds.evaluation),
        *(dp.problems_of_privacy, trust.identities, trust.jwt, secagg.problems_of_masks),
        *(edges.problems_of_edges, trust.http),
    )
    return [problem for check in checks for problem in check(config)]
