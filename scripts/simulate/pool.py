"""The pool: where the assignments of all virtual learners are trained."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from learner.trainer import Assignment, Trainer, Update


class Pool(Protocol):
    """Trains assignments beside the event loop, in any order; an update depends on its assignment alone."""

    def train(self, assignment: Assignment) -> asyncio.Future[Update]:
        """The update to come; raises what Trainer.run raises. Cancelling it gives the assignment up."""
        ...

    def close(self) -> None:
        """Give up what is under way."""
        ...


class Threads:
    """Workers in this process, each with a model of its own; made when first needed."""

    def __init__(self, workers: int, make_trainer: Callable[[], Trainer]) -> None:
        torch.set_num_threads(1)  # the workers are the parallelism, and bits depend on the threads of one
        self._make_trainer = make_trainer
        self._own = threading.local()
        self._trainers: list[Trainer] = []
        self._executor = ThreadPoolExecutor(workers, "virtual-learners")

    def train(self, assignment: Assignment) -> asyncio.Future[Update]:
        """See Pool."""
        return asyncio.get_running_loop().run_in_executor(self._executor, self._train, assignment)

    def _train(self, assignment: Assignment) -> Update:
        trainer: Trainer | None = getattr(self._own, "trainer", None)
        if trainer is None:
            trainer = self._own.trainer = self._make_trainer()
            self._trainers.append(trainer)
        return trainer.run(assignment)

    def close(self) -> None:
        """See Pool."""
        for trainer in self._trainers:
            trainer.cancel()
        self._executor.shutdown(cancel_futures=True)
