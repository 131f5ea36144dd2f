"""Evaluating the global model on the test split, beside the rounds and never in their way."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from leader.config import RunConfig
from leader.events import Evaluated, EvaluationSkipped, EventStream
from model.flat import FlatModel
from model.precision import autocast, choose_dtype
from utils.batches import normalise
from utils.datasets import Dataset

Vector = NDArray[np.float32]


class Evaluator:
    """Accuracy and loss of weights on one data set; not thread-safe."""

    def __init__(self, model: FlatModel, test: Dataset, config: RunConfig) -> None:
        self._model = model
        self._test = test
        self._batch_size = config.evaluation.batch_size
        self._device = model.vector.device
        self._dtype = choose_dtype(config.train.dtype, self._device)

    def evaluate(self, vector: Vector) -> tuple[float, float]:
        """(accuracy 0..1, mean cross-entropy) of the weights `vector` (total,)."""
        self._model.load(vector)
        self._model.module.eval()
        correct, loss = 0, 0.0
        with torch.inference_mode(), autocast(self._device, self._dtype):
            for start in range(0, len(self._test), self._batch_size):
                images = torch.from_numpy(np.array(self._test.images[start : start + self._batch_size]))
                labels = torch.from_numpy(self._test.labels[start : start + self._batch_size]).to(
                    self._device
                )
                logits = self._model.module(normalise(images.to(self._device), channels_last=True)).float()
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        return correct / len(self._test), loss / len(self._test)


class EvaluationQueue:
    """Evaluates one model at a time in a thread of its own; a newer one replaces one that waits."""

    def __init__(self, evaluator: Evaluator, events: EventStream) -> None:
        self._evaluator = evaluator
        self._events = events
        self._thread = ThreadPoolExecutor(1, "evaluation")
        self._next: tuple[int, Vector] | None = None
        self._task: asyncio.Task[None] | None = None

    def offer(self, round_: int, vector: Vector) -> None:
        """Evaluate the weights of `round_` as soon as the one before is done."""
        if self._next is not None:
            self._events.publish(EvaluationSkipped(self._next[0]))
        self._next = (round_, vector)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._next is not None:
            (round_, vector), self._next = self._next, None
            began = time.monotonic()
            accuracy, loss = await loop.run_in_executor(self._thread, self._evaluator.evaluate, vector)
            self._events.publish(Evaluated(round_, accuracy, loss, time.monotonic() - began))

    async def finish(self) -> None:
        """Wait for what was offered."""
        if self._task is not None:
            await self._task
        self._thread.shutdown()
