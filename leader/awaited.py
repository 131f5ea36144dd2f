"""Which evaluations of a round's model are to come."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config import RunConfig
from leader.run_folder import FEDERATED, TEST
from model.task import Examples


def expects_evaluation(config: RunConfig, test: Examples | None, round_: int) -> bool:
    """Whether the model of this round is to be evaluated; that of the last round always is."""
    every = config.evaluation.every
    return test is not None and (round_ == config.rounds or (every > 0 and round_ % every == 0))


def awaited_evaluations(config: RunConfig, test: Examples | None, round_: int) -> Iterator[str]:
    """The evaluations of the model of this round that are to come; learners score it after its commit."""
    every = config.evaluation.federated_every
    if expects_evaluation(config, test, round_):
        yield TEST
    if every > 0 and round_ % every == 0:
        yield FEDERATED
