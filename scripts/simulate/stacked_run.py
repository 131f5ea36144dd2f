"""Assignments trained together: the steps of all at once, by torch.func.vmap over their stacked weights."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from learner.training.local_run import LocalRun, mean
from learner.training.local_sgd import Correction, StackedSgd, stacked
from learner.training.trainer import Begun, Trainer
from learner.training.update import Assignment, Update
from model.flat import ModelStack
from model.precision import autocast
from model.task import Batch, Task, each_tensor, to_device
from utils.errors import ConfigError, FlockstepError

T = TypeVar("T")


@dataclass(frozen=True)
class _Row:
    """An assignment with its place in the stack."""

    begun: Begun
    start: Tensor  # (total,)
    corrections: Sequence[Correction]
    losses: list[tuple[int, Tensor]] = field(default_factory=list)  # of each step: examples and mean

    @property
    def run(self) -> LocalRun:
        return self.begun.run


def train_together(trainer: Trainer, assignments: Sequence[Assignment]) -> list[Update | FlockstepError]:
    """What `trainer.run` makes of each, up to rounding, or raises for it; raises ConfigError for a model that can't.

    The seconds of an update are its share.
    """
    began = time.perf_counter()
    opened = [_attempt(partial(_open, trainer, assignment)) for assignment in assignments]
    rows = [one for one in opened if isinstance(one, _Row)]
    stack = ModelStack(trainer.model, len(rows))
    for values, row in zip(stack.vector, rows, strict=True):
        values.copy_(row.start)
    if rows:
        _make_steps(stack, rows)
    closed = iter([_attempt(partial(_close, trainer, stack, place, row)) for place, row in enumerate(rows)])
    made = [next(closed) if isinstance(one, _Row) else one for one in opened]
    share = (time.perf_counter() - began) / len(made)
    return [replace(one, seconds=share) if isinstance(one, Update) else one for one in made]


def _attempt(make: Callable[[], T]) -> T | FlockstepError:
    try:
        return make()
    except FlockstepError as error:
        return error


def _open(trainer: Trainer, assignment: Assignment) -> _Row:
    begun = trainer.begin(assignment)
    corrections = [correction for one in begun.algorithms for correction in one.corrections()]
    return _Row(begun, trainer.model.snapshot(), corrections)


def _close(trainer: Trainer, stack: ModelStack, place: int, row: _Row) -> Update:
    trainer.model.load(stack.vector[place])
    trainer.model.gradient.copy_(stack.gradient[place])
    return trainer.finish(row.begun, *mean(row.losses))


def _make_steps(stack: ModelStack, rows: Sequence[_Row]) -> None:
    """All steps of all rows. At each, those whose batches have the same shapes go through the model at once."""
    orders = [row.run.order for row in rows]
    corrections = [stacked(kind) for kind in zip(*(row.corrections for row in rows), strict=True)]
    sgd = StackedSgd(orders, stack, corrections) if orders[0].exchange == "delta" else None
    batches = [row.run.batches(range(row.run.order.local_steps)) for row in rows]
    found: list[tuple[list[tuple[int, int]], Tensor]] = []  # of each pass: places with their examples, losses
    stack.module.train()
    for step in range(max(order.local_steps for order in orders)):
        # By shapes: place, examples, batch.
        alike: dict[str, list[tuple[int, int, Batch]]] = defaultdict(list)
        for place, row in enumerate(rows):
            if step < row.run.order.local_steps:
                number, indices = next(batches[place])
                batch = row.run.batch(number, indices)
                shapes = str(each_tensor(lambda tensor: (tensor.shape, tensor.dtype), batch))
                alike[shapes].append((place, row.run.counted(indices), batch))
        stack.zero_gradient()
        for group in alike.values():
            places, examples, whole = zip(*group, strict=True)
            losses = _backward(stack, rows[0].run, places, whole)
            found.append((list(zip(places, examples, strict=True)), losses))
        if sgd is not None:
            sgd.step(step)
    for told, losses in found:  # only now, as each waits for the device
        for (place, count), loss in zip(told, losses.cpu(), strict=True):
            rows[place].losses.append((count, loss))


class _Loss(nn.Module):
    """The task's loss as a module, whose model's tensors `functional_call` replaces by name."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.loss(self.model, batch)


def _backward(stack: ModelStack, run: LocalRun, places: Sequence[int], batches: Sequence[Batch]) -> Tensor:
    """Leave the gradients of these rows, each of its own batch, in the stack; their mean losses, (len(places),)."""
    entries = stack.layout.parameters
    module = _Loss(stack.module, run.task)

    def loss_of(vector: Tensor, batch: Batch) -> Tensor:
        # One operation, whose gradient is one concatenation.
        tensors = torch.split(vector, [entry.size for entry in entries])
        named = {f"model.{e.name}": part.view(e.shape) for e, part in zip(entries, tensors, strict=True)}
        with autocast(run.device, run.dtype):
            loss: Tensor = functional_call(module, named, (batch,))
        return loss

    every = len(places) == len(stack.vector)
    at = slice(None) if every else torch.tensor(places, device=run.device)
    try:
        batch = to_device(each_tensor(lambda *tensors: torch.stack(tensors), *batches), run.device)
        gradient, losses = vmap(grad_and_value(loss_of))(stack.vector[at], batch)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--batch-clients: the task's loss can't be taken of many models at once ({error}); lower N where memory "
            "is short; else leave --batch-clients out, as for dropout and for whatever asks for a tensor's value"
        ) from error
    stack.gradient[at] = gradient
    return torch.as_tensor(losses)
