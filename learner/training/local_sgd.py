"""SGD at the learner: one pass over an order's batches, with what an algorithm adds to each gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from model.flat import FlatModel, ModelStack
from protos import leader_pb2
from utils.schedule import Schedule

Correction = Callable[
    [Tensor, Tensor], None
]  # (parameters (P,), gradient (P,)): changes the gradient in place


class LocalSgd:
    """SGD as torch.optim.SGD defines it, on the flat vector at once."""

    def __init__(
        self,
        order: leader_pb2.WorkOrder,
        model: FlatModel,
        corrections: Iterable[Correction] = (),
        velocity: Tensor | None = None,  # (P,) to go on with, changed in place; None = zero
        fused: bool | None = None,  # each step is one kernel; None = on CUDA, where each kernel is a launch
    ) -> None:
        self._order = order
        self._parameters = model.vector[..., : model.layout.parameter_count]
        self._gradient = model.gradient
        self._velocity: Tensor | None = None
        if order.momentum:
            self._velocity = torch.zeros_like(model.gradient) if velocity is None else velocity
        self._corrections = tuple(corrections)
        self._fused = model.vector.device.type == "cuda" if fused is None else fused

    @property
    def velocity(self) -> Tensor | None:
        """(P,), as the last step left it; None without momentum."""
        return self._velocity

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Local step number `step`, by the gradient that the model holds; changes that too."""
        order, gradient = self._order, self._gradient
        for correct in self._corrections:
            correct(self._parameters, gradient)
        if self._fused:
            self._fused_step(step)
            return
        if order.weight_decay:
            gradient.add_(self._parameters, alpha=order.weight_decay)
        if self._velocity is not None:
            self._velocity.mul_(order.momentum).add_(gradient)
            if order.nesterov:
                gradient.add_(self._velocity, alpha=order.momentum)
        moves = self._velocity if self._velocity is not None and not order.nesterov else gradient
        self._move(moves, step)

    def _fused_step(self, step: int) -> None:
        order = self._order
        sgd(
            [self._parameters],
            [self._gradient],
            [self._velocity],
            fused=True,
            weight_decay=order.weight_decay,
            momentum=order.momentum,
            lr=learning_rate(order, step),
            dampening=0,
            nesterov=order.nesterov,
            maximize=False,
        )

    def _move(self, moves: Tensor, step: int) -> None:
        self._parameters.add_(moves, alpha=-learning_rate(self._order, step))


class StackedSgd(LocalSgd):
    """The same on a stack, a row for each of `orders`; they differ in nothing but their learning rates and steps.

    A row whose steps are made stays as it is.
    """

    def __init__(
        self,
        orders: Sequence[leader_pb2.WorkOrder],
        model: ModelStack,
        corrections: Iterable[Correction] = (),
    ) -> None:
        super().__init__(orders[0], model, corrections, fused=False)  # rates differ from row to row
        assert len({(order.momentum, order.weight_decay, order.nesterov) for order in orders}) == 1
        rates = [
            [[learning_rate(order, step) if step < order.local_steps else 0.0] for order in orders]
            for step in range(max(order.local_steps for order in orders))
        ]
        self._rates = torch.tensor(rates, device=model.vector.device)  # (steps, N, 1)

    def _move(self, moves: Tensor, step: int) -> None:
        self._parameters.addcmul_(moves, self._rates[step], value=-1)


def learning_rate(order: leader_pb2.WorkOrder, step: int) -> float:
    """Of local step number `step` of the order."""
    schedule = Schedule(order.schedule.kind, order.schedule.lr, order.schedule.warmup)
    spread = order.progress_end - order.progress_start
    return schedule.at(order.progress_start + spread * step / order.local_steps)


def stacked(corrections: Sequence[Correction]) -> Correction:
    """One correction for a stack, of those of its rows: dataclasses that differ in their tensors alone."""
    first: Any = corrections[0]
    names = [field.name for field in fields(first) if isinstance(getattr(first, field.name), Tensor)]
    tensors = {name: torch.stack([getattr(one, name) for one in corrections]) for name in names}
    made: Correction = replace(first, **tensors)
    return made
