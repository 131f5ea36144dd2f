"""Local training: one work order in, one update out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from learner.training import scorer
from learner.training.algorithms.base import Algorithm
from learner.training.algorithms.choose import choose_algorithms
from learner.training.local_run import LocalRun
from learner.training.local_sgd import LocalSgd
from learner.training.private_run import PrivateRun
from learner.training.update import Assignment, Head, Progress, Update
from model.device import Placement
from model.flat import FlatModel
from utils.errors import IncompatibleError
from utils.vector import Vector


@dataclass(frozen=True)
class Begun:
    """An assignment of which all is done that comes before its steps; the model has its start."""

    run: LocalRun
    algorithms: Sequence[Algorithm]
    start_loss: float | None
    began: float  # by time.perf_counter


class Trainer:
    """Runs work orders on one model, as the algorithms that `choose` finds change it.

    Not thread-safe, `cancel` apart.
    """

    def __init__(
        self,
        model: FlatModel,
        *,
        compile_model: bool = False,
        choose: Callable[[LocalRun], Sequence[Algorithm]] = choose_algorithms,
    ) -> None:
        self.model = model
        self._forward = compiled(model) if compile_model else model.module
        self._placement = Placement(model.vector.device)
        self._choose = choose
        self._cancelled = threading.Event()

    def expect(self) -> None:
        """Another order comes: what was cancelled until now was not that."""
        self._cancelled.clear()

    def cancel(self) -> None:
        """Make the order that runs now, or is expected, raise CancelledError before its next step.

        Any thread may call it.
        """
        self._cancelled.set()

    def run(self, assignment: Assignment, progress: Progress = lambda done, total, rate: None) -> Update:
        """Train as the order says; raises DivergedError, CancelledError or IncompatibleError."""
        begun = self.begin(assignment, progress)
        return self.finish(begun, *_train(begun.run, begun.algorithms))

    def begin(self, assignment: Assignment, progress: Progress = lambda done, total, rate: None) -> Begun:
        """What comes before the steps; raises IncompatibleError."""
        began = time.perf_counter()
        run = self._open(assignment, progress)
        algorithms = self._choose(run)
        _check_memory(run, algorithms)
        for algorithm in algorithms:
            run.start = algorithm.start(run.start)
        self.model.load(run.start)
        others = {prefix: model for one in algorithms for prefix, model in one.scored().items()}
        run.scores = scorer.scores(run, others)
        return Begun(run, algorithms, scorer.start_loss(run), began)

    def finish(self, begun: Begun, trained: int, loss: float) -> Update:
        """The update, once the model has what its steps have made of it; raises DivergedError."""
        run, algorithms, began, order = begun.run, begun.algorithms, begun.began, begun.run.order
        scores, assignment = run.scores, run.assignment
        if not order.local_steps:  # the leader asks for scores alone
            nothing = np.zeros(self.model.layout.total, np.float32)
            seconds = time.perf_counter() - began
            return Update(nothing, run.examples, 0, math.nan, seconds, {}, scores)
        run.check_loss("training", loss, "train.lr")
        if assignment.watcher is not None:
            nothing = np.empty(0, np.float32)
            return Update(nothing, trained, trained, loss, time.perf_counter() - began, {}, scores)
        change = self.model.vector.detach().cpu().numpy() - run.start
        memory = {name: kept for one in algorithms for name, kept in one.remember(change).items()}
        weight = trained if order.exchange == "gradient" else run.examples
        values = self._values(run, change, algorithms)
        seconds = time.perf_counter() - began + (assignment.head.seconds if assignment.head else 0.0)
        return Update(values, weight, trained, loss, seconds, memory, scores, begun.start_loss)

    def head(self, assignment: Assignment, progress: Progress) -> Head | None:
        """The first steps of an order that has not come, where they need nothing of its model; None if they do.

        Raises CancelledError or IncompatibleError.
        """
        heads = (algorithm.ahead() for algorithm in self._choose(self._open(assignment, progress)))
        return next((head for head in heads if head is not None), None)

    def _open(self, assignment: Assignment, progress: Progress) -> LocalRun:
        kind = PrivateRun if assignment.order.HasField("examples") else LocalRun
        return kind(self.model, self._forward, assignment, self._cancelled, progress, self._placement)

    def _values(self, run: LocalRun, change: Vector, algorithms: Sequence[Algorithm]) -> Vector:
        """What travels: the change, or the gradient and the change of the buffers."""
        if run.order.exchange == "gradient":
            change[: self.model.layout.parameter_count] = self.model.gradient.cpu().numpy()
        for algorithm in algorithms:
            algorithm.send(change)
        return change


def compiled(model: FlatModel) -> nn.Module:
    """The model's module, compiled at its first call; on CUDA its kernels are launched together, as CUDA graphs."""
    mode = "reduce-overhead" if model.vector.device.type == "cuda" else None
    made: nn.Module = torch.compile(model.module, mode=mode)  # type: ignore[assignment]
    return made


def _train(run: LocalRun, algorithms: Sequence[Algorithm]) -> tuple[int, float]:
    """(examples trained, mean loss): by an algorithm that trains itself, else by plain steps, corrected."""
    if not run.order.local_steps:
        return 0, math.nan
    for algorithm in algorithms:
        if (made := algorithm.train()) is not None:
            return made
    if run.order.exchange == "gradient":
        return run.train(None)
    corrections = [correction for algorithm in algorithms for correction in algorithm.corrections()]
    return run.train(LocalSgd(run.order, run.model, corrections))


def _check_memory(run: LocalRun, algorithms: Sequence[Algorithm]) -> None:
    sizes = {name: size for algorithm in algorithms for name, size in algorithm.sizes().items()}
    wrong = [name for name, vector in run.memory.items() if vector.size != sizes.get(name, vector.size)]
    if wrong:
        raise IncompatibleError(
            f"what is kept here ({', '.join(wrong)}) is of another model; use another --state-dir"
        )
