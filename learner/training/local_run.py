"""One order on one model: its examples, its batches and its steps."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.training.device_reads import reading
from learner.training.gradient_pieces import backward
from learner.training.local_sgd import LocalSgd
from learner.training.update import (
    Assignment,
    CancelledError,
    DivergedError,
    Progress,
    Score,
    Watcher,
)
from model.device import Placement
from model.flat import FlatModel
from model.precision import autocast, choose_dtype
from model.task import Batch, Indices, to_device
from utils import faults
from utils.batches import ShardSampler, batch_generator, holdout_split
from utils.seeds import derive_seed
from utils.vector import Vector


class LocalRun:
    """An assignment with its examples split into what is trained on and what is held out, and how steps are made."""

    def __init__(
        self,
        model: FlatModel,
        forward: nn.Module,
        assignment: Assignment,
        cancelled: threading.Event,
        progress: Progress,
        placement: Placement,
    ) -> None:
        self.model = model
        self.assignment = assignment
        self.order = assignment.order
        self.task = assignment.task
        self.data: Any = placement.of(assignment.task, assignment.examples)
        self.memory: Mapping[str, Vector] = assignment.memory
        self.train_indices, self.held = holdout_split(
            len(assignment.examples), assignment.holdout, self.order.seed
        )
        self.examples = len(self.train_indices)
        self.start = assignment.base  # (total,): what training begins from
        self.scores: Mapping[str, Score] = {}  # of the order's model
        self.device = model.vector.device
        self.dtype = choose_dtype(self.order.dtype, self.device)
        self._forward = forward
        self._cancelled = cancelled
        self._progress = progress
        self._sampler = ShardSampler(self.examples, self.order.batch_size, self.order.seed)

    def batches(self, steps: range) -> Iterator[tuple[int, Indices]]:
        """(number, positions in the examples, ascending) of the batch of each of these steps."""
        for step in steps:
            number = self.order.first_batch + step
            yield number, self.train_indices[np.sort(self._sampler.indices(number))]

    def train(self, sgd: LocalSgd | None, *, quiet: bool = False) -> tuple[int, float]:
        """All the order's steps: (examples trained, mean loss); without `sgd` the gradient is left in the model."""
        return mean(self.steps(sgd, range(self.order.local_steps), quiet=quiet))

    def steps(self, sgd: LocalSgd | None, steps: range, *, quiet: bool = False) -> list[tuple[int, Tensor]]:
        """Make these local steps, told as progress unless `quiet`; examples and mean loss of each.

        Raises CancelledError.
        """
        self.model.module.train()
        order, began = self.order, time.perf_counter()
        trained, losses = 0, []
        for step, (number, indices) in zip(steps, self.batches(steps), strict=True):
            if self._cancelled.is_set():
                raise CancelledError(f"round {order.round} is over")
            count = self.counted(indices)
            losses.append((count, self._backward(number, indices)))
            if sgd is not None:
                sgd.step(step)
            trained += count
            faults.reach("learner.training", order.round)
            if not quiet:
                self._progress(step + 1, order.local_steps, trained / (time.perf_counter() - began))
        return losses

    def counted(self, indices: Indices) -> int:
        """How many examples a batch is told to have."""
        return len(indices)

    def batch(self, number: int, indices: Indices) -> Batch:
        """The examples of batch `number`, augmented; on the CPU."""
        return self.task.make_batch(self.data, indices, batch_generator(self.order.seed, number))

    def _backward(self, number: int, indices: Indices) -> Tensor:
        self.model.zero_gradient()
        batch = to_device(self.batch(number, indices), self.device)
        # Dropout and the like draw from torch's own generator: the same numbers for the same batch.
        _seed_torch(derive_seed(self.order.seed, "torch", number), self.device)
        with autocast(self.device, self.dtype):
            loss = self.task.loss(self._forward, batch)
        if self.assignment.watcher is not None:
            self._watched(loss, len(indices), self.assignment.watcher)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _watched(self, loss: Tensor, examples: int, watcher: Watcher) -> None:
        """Backward, with each piece told as soon as it is there, after the loss, which is looked at before."""

        def begun(measured: Tensor) -> None:
            _, value = mean([(examples, measured)])
            self.check_loss("training", value, "train.lr")
            watcher.begun(examples, value, self.scores)

        with reading(self.device) as read:
            read(loss.detach(), begun)
            backward(loss, self.model, self.assignment.base, watcher, read)

    def check_loss(self, what: str, loss: float, lower: str) -> None:
        """Raise DivergedError for a loss that is not finite; `lower` is the setting to change."""
        if not math.isfinite(loss):
            raise DivergedError(
                f"{what} diverged in round {self.order.round}: the loss is {loss}; lower {lower}"
            )

    def tensor(self, vector: Vector) -> Tensor:
        """A copy of the vector, on the model's device."""
        return torch.from_numpy(np.array(vector, np.float32)).to(self.device)


def mean(losses: list[tuple[int, Tensor]]) -> tuple[int, float]:
    """(examples, mean loss) over batches; the loss of none is NaN."""
    if not losses:
        return 0, math.nan
    trained = sum(count for count, _ in losses)
    return trained, math.fsum(count * float(value) for count, value in losses) / trained


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that layers draw from on `device` and on the CPU."""
    # torch.manual_seed formats a stack trace for each device that is not in use: a millisecond a batch.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
