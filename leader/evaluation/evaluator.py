"""Evaluating the global model on the test split, beside the rounds and never in their way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from leader.config import RunConfig
from leader.events import Evaluated, EvaluationSkipped, EventStream
from model.device import Placement
from model.flat import FlatModel
from model.precision import choose_dtype
from model.scoring import score
from model.task import Examples, Task
from utils.vector import Vector

Keep = Callable[[int, Mapping[str, float], Vector], None]  # round, its metrics, its weights (total,)


class Evaluator:
    """The task's metrics of weights on one data set; not thread-safe."""

    def __init__(self, model: FlatModel, task: Task, test: Examples, config: RunConfig) -> None:
        self._model = model
        self._task = task
        self._test = Placement(model.vector.device).of(task, test)
        self._batch_size = config.evaluation.batch_size
        self._dtype = choose_dtype(config.train.dtype, model.vector.device)

    def evaluate(self, vector: Vector) -> dict[str, float]:
        """Means over all test examples, by name, of the model with the weights `vector` (total,)."""
        self._model.load(vector)
        return score(
            self._model.module,
            self._task,
            self._task.metrics,
            self._test,
            np.arange(len(self._test)),
            batch_size=self._batch_size,
            device=self._model.vector.device,
            dtype=self._dtype,
        )


class EvaluationQueue:
    """Evaluates one model at a time in a thread of its own; a newer one replaces one that waits.

    `keep` is called in that thread with each result, before it is told. Without an `evaluator`, where the
    leader has no test split, nothing may be offered.
    """

    def __init__(self, evaluator: Evaluator | None, events: EventStream, keep: Keep) -> None:
        self._evaluator = evaluator
        self._events = events
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "evaluation")
        self._next: tuple[int, Vector] | None = None
        self._task: asyncio.Task[None] | None = None

    def offer(self, round_: int, vector: Vector) -> None:
        """Evaluate the weights of `round_` as soon as the one before is done."""
        if self._next is not None:
            self._events.publish(EvaluationSkipped(self._next[0]))
        self._next = (round_, vector)
        if self._task is None or (self._task.done() and not self.failed):
            self._task = asyncio.ensure_future(self._work())

    @property
    def failed(self) -> bool:
        """Whether it has stopped, as an evaluation failed or could not be kept; `idle` raises with what."""
        return self._task is not None and self._task.done() and self._task.exception() is not None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next is not None:
            (round_, vector), self._next = self._next, None
            began = time.monotonic()
            metrics = await loop.run_in_executor(self._thread, self._evaluate, round_, vector)
            self._events.publish(Evaluated(round_, metrics, time.monotonic() - began))

    def _evaluate(self, round_: int, vector: Vector) -> dict[str, float]:
        assert self._evaluator is not None
        metrics = self._evaluator.evaluate(vector)
        self._keep(round_, metrics, vector)
        return metrics

    async def idle(self) -> None:
        """Wait for what was offered; raises what an evaluation or `keep` raised."""
        if self._task is not None:
            await self._task

    def cancel(self) -> None:
        """Tell of nothing more and end the thread; what it evaluates now is waited for."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    async def finish(self) -> None:
        """Wait for what was offered and end the thread."""
        try:
            await self.idle()
        finally:
            self._thread.shutdown()
