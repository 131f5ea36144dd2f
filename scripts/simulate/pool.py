"""The pool: where the assignments of all virtual learners are trained."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from learner.training.trainer import Trainer
from learner.training.update import Assignment, Update
from utils.errors import ConfigError


@dataclass(frozen=True)
class Training:
    """One assignment on its way to an update."""

    update: Callable[[], Awaitable[Update]]  # raises what Trainer.run raises
    cancel: Callable[[], object] = lambda: None  # the update is not wanted, or taken already

    @classmethod
    def under_way(cls, future: asyncio.Future[Update]) -> Training:
        """Training that another thread or process does."""
        future.add_done_callback(_look)  # what was given up may fail unheard
        return cls(lambda: future, future.cancel)


class Pool(Protocol):
    """Trains assignments, in any order; an update depends on its assignment alone."""

    def train(self, assignment: Assignment) -> Training:
        """Begin, now or later."""
        ...

    def close(self) -> None:
        """Give up what is under way."""
        ...


class OneWorker:
    """Trains each assignment when its update is asked for, in the thread that asks."""

    def __init__(self, make_trainer: Callable[[], Trainer]) -> None:
        torch.set_num_threads(1)  # the bits of an update depend on the number of threads
        self._trainer = make_trainer()

    def train(self, assignment: Assignment) -> Training:
        """See Pool."""

        async def update() -> Update:
            await asyncio.sleep(0)  # signals are heard between one assignment and the next
            return self._trainer.run(assignment)

        return Training(update)

    def close(self) -> None:
        """See Pool."""


class Threads:
    """Workers in this process, each with a model of its own.

    Raises ConfigError, at the first update, where the model draws random numbers from torch's
    generator, as dropout does: the threads would share it.
    """

    def __init__(self, workers: int, make_trainer: Callable[[], Trainer]) -> None:
        torch.set_num_threads(1)  # the workers are the parallelism
        self._trainers = [make_trainer() for _ in range(workers)]
        self._idle: queue.SimpleQueue[Trainer] = queue.SimpleQueue()
        for trainer in self._trainers:
            self._idle.put(trainer)
        self._executor = ThreadPoolExecutor(workers, "virtual-learners")
        self._first = threading.Lock()
        self._proved = False  # that no random numbers are drawn

    def train(self, assignment: Assignment) -> Training:
        """See Pool."""
        loop = asyncio.get_running_loop()
        return Training.under_way(loop.run_in_executor(self._executor, self._train, assignment))

    def _train(self, assignment: Assignment) -> Update:
        if self._proved:
            return self._run(assignment)
        with self._first:  # alone, as the generator is looked at afterwards
            update = self._run(assignment)
            if not self._proved:
                _prove_no_draws()
                self._proved = True
            return update

    def _run(self, assignment: Assignment) -> Update:
        trainer = self._idle.get()
        try:
            return trainer.run(assignment)
        finally:
            self._idle.put(trainer)

    def close(self) -> None:
        """See Pool."""
        for trainer in self._trainers:
            trainer.cancel()
        self._executor.shutdown(cancel_futures=True)


def _look(future: asyncio.Future[Update]) -> None:
    if not future.cancelled():
        future.exception()


def _prove_no_draws() -> None:
    """Raise ConfigError if numbers were drawn from torch's generator since it was seeded last."""
    fresh = torch.Generator().manual_seed(torch.initial_seed())
    if not torch.equal(fresh.get_state(), torch.get_rng_state()):
        raise ConfigError(
            "this model draws random numbers from torch's generator (dropout, say), which threads would share: "
            "use --workers 1, or --ray with more"
        )
