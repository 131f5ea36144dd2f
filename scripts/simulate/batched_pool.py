"""A pool that trains up to N assignments as one batch, so that a device is kept busy with models too small for it.

Which assignments share a batch depends on the order in which they came, so the same N gives the same bits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import torch

from leader.config import RunConfig
from learner.training.trainer import Trainer
from learner.training.update import Assignment, Update
from model.task import FitsItself, Task
from scripts.simulate.pool import Training
from scripts.simulate.stacked_run import train_together
from utils.errors import ConfigError, FlockstepError


class Batched:
    """Trains up to `most` waiting assignments when an update is asked for that is not made yet; see Pool.

    Raises ConfigError for a model with buffers, and at the first update for one that can't be batched otherwise.
    """

    def __init__(self, most: int, make_trainer: Callable[[], Trainer]) -> None:
        torch.set_num_threads(1)  # as in OneWorker
        self._most = most
        self._trainer = make_trainer()
        self._numbers = itertools.count()
        self._waiting: dict[int, Assignment] = {}  # in the order in which they came
        self._made: dict[int, Update | FlockstepError] = {}  # that nobody has asked for yet
        if buffers := self._trainer.model.layout.buffers:
            raise ConfigError(
                f"--batch-clients: the model has buffers ({buffers[0].name}), such as the averages of batch norm, "
                "which can't be trained as one batch: set model.norm=group, or leave --batch-clients out"
            )

    def train(self, assignment: Assignment) -> Training:
        """See Pool."""
        number = next(self._numbers)
        self._waiting[number] = assignment

        async def update() -> Update:
            await asyncio.sleep(0)  # signals are heard between one batch and the next
            if number not in self._made:
                self._train(number, assignment)
            made = self._made.pop(number)
            if isinstance(made, FlockstepError):
                raise made
            return made

        def cancel() -> None:
            self._waiting.pop(number, None)
            self._made.pop(number, None)

        return Training(update, cancel)

    def _train(self, number: int, assignment: Assignment) -> None:
        self._waiting.pop(number, None)
        others = list(itertools.islice(self._waiting, self._most - 1))
        chosen = {number: assignment} | {other: self._waiting.pop(other) for other in others}
        self._made |= zip(chosen, train_together(self._trainer, list(chosen.values())), strict=True)

    def close(self) -> None:
        """See Pool."""


def check_batching(config: RunConfig, task: Task | None) -> None:
    """Raise ConfigError for a run whose learners do other than steps of one model each."""
    reasons = {
        "the task trains by itself (fit)": isinstance(task, FitsItself),
        "train.personal_lambda trains a second model": bool(config.train.personal_lambda),
        "streaming.fragments takes fragments in between two steps": bool(config.streaming.fragments),
        "dp.mode=examples clips example by example": config.dp.mode == "examples",
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(
                f"--batch-clients: {reason}, which is not trained as one batch; leave --batch-clients out"
            )
