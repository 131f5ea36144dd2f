"""Local training: one work order in, one update out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.task import Task
from model.flat import FlatModel
from model.precision import autocast, choose_dtype
from protos import leader_pb2
from utils import faults
from utils.errors import FlockstepError
from utils.schedule import Schedule


class DivergedError(FlockstepError):
    """Training produced a loss that is not finite."""


class CancelledError(FlockstepError):
    """The work order is no longer wanted."""


@dataclass(frozen=True)
class Update:
    """What one work order came to."""

    values: NDArray[np.float32]  # (total,): gradient or delta of the parameters, change of the buffers
    examples: int  # the update's weight
    trained: int  # images that went through the model
    loss: float  # example-weighted mean over the batches
    seconds: float


Progress = Callable[[int, int, float], None]  # steps done, steps in all, images a second


class Trainer:
    """Runs work orders on one model; not thread-safe, `cancel` apart."""

    def __init__(self, model: FlatModel, *, compile_model: bool = False) -> None:
        self.model = model
        self._device = model.vector.device
        self._forward: nn.Module = torch.compile(model.module) if compile_model else model.module  # type: ignore[assignment]
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Make the order that runs now raise CancelledError before its next step; any thread may call it."""
        self._cancelled.set()

    def run(
        self,
        order: leader_pb2.WorkOrder,
        base: NDArray[np.float32],
        task: Task,
        examples: int,
        progress: Progress = lambda done, total, rate: None,
    ) -> Update:
        """Train from the weights `base` (total,) as the order says; `examples` is the shard's size.

        Raises DivergedError or CancelledError.
        """
        self._cancelled.clear()
        began = time.perf_counter()
        self.model.load(base)
        self.model.module.train()
        gradient = order.exchange == "gradient"
        trained, losses = 0, []
        velocity = None if gradient else torch.zeros_like(self.model.gradient)
        for step in range(order.local_steps):
            if self._cancelled.is_set():
                raise CancelledError(f"round {order.round} is over")
            batch_loss, count = self._backward(order, task, order.first_batch + step)
            if velocity is not None:
                self._descend(order, velocity, step)
            losses.append((count, batch_loss))
            trained += count
            faults.reach("learner.training", order.round)
            progress(step + 1, order.local_steps, trained / (time.perf_counter() - began))
        loss = math.fsum(count * float(value) for count, value in losses) / trained
        if not math.isfinite(loss):
            raise DivergedError(
                f"training diverged in round {order.round}: the loss is {loss}; lower train.lr"
            )
        values = self._gradient(base) if gradient else self._change(base)
        return Update(values, trained if gradient else examples, trained, loss, time.perf_counter() - began)

    def _backward(self, order: leader_pb2.WorkOrder, task: Task, batch: int) -> tuple[Tensor, int]:
        self.model.zero_gradient()
        with autocast(self._device, choose_dtype(order.dtype, self._device)):
            loss, count = task.loss(self._forward, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), count

    def _descend(self, order: leader_pb2.WorkOrder, velocity: Tensor, step: int) -> None:
        """One local step of SGD as torch.optim.SGD defines it, on the flat vector at once."""
        spread = order.progress_end - order.progress_start
        schedule = Schedule(order.schedule.kind, order.schedule.lr, order.schedule.warmup)
        lr = schedule.at(order.progress_start + spread * step / order.local_steps)
        parameters = self.model.vector[: self.model.layout.parameter_count]
        gradient = self.model.gradient
        with torch.no_grad():
            if order.weight_decay:
                gradient.add_(parameters, alpha=order.weight_decay)
            velocity.mul_(order.momentum).add_(gradient)
            if order.nesterov:
                gradient.add_(velocity, alpha=order.momentum)
            parameters.add_(gradient if order.nesterov else velocity, alpha=-lr)

    def _change(self, base: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.vector.detach().cpu().numpy() - base

    def _gradient(self, base: NDArray[np.float32]) -> NDArray[np.float32]:
        values = self._change(base)
        values[: self.model.layout.parameter_count] = self.model.gradient.cpu().numpy()
        return values
