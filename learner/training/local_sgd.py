"""SGD at the learner: one pass over an order's batches, with what an algorithm adds to each gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.flat import FlatModel
from protos import leader_pb2
from utils.schedule import Schedule

Correction = Callable[
    [Tensor, Tensor], None
]  # (parameters (P,), gradient (P,)): changes the gradient in place


@dataclass(frozen=True)
class Proximal:
    """Draws the weights to `anchor`: the gradient of mu / 2 * |w - anchor|^2.

    FedProx (Li et al. 2020, eq. 2) with the round's model as anchor; with the roles of the models
    changed, the personal objective of Ditto (Li et al. 2021, eq. 1).
    """

    mu: float
    anchor: Tensor  # (P,)

    def __call__(self, parameters: Tensor, gradient: Tensor) -> None:
        """gradient += mu * (w - anchor)."""
        gradient.add_(parameters, alpha=self.mu).sub_(self.anchor, alpha=self.mu)


@dataclass(frozen=True)
class ControlVariate:
    """Takes out a learner's drift: SCAFFOLD's step (Karimireddy et al. 2020, algorithm 1, line 10)."""

    drift: Tensor  # (P,): c - c_i

    def __call__(self, parameters: Tensor, gradient: Tensor) -> None:
        """gradient += c - c_i."""
        gradient.add_(self.drift)


class LocalSgd:
    """SGD as torch.optim.SGD defines it, on the flat vector at once."""

    def __init__(
        self,
        order: leader_pb2.WorkOrder,
        model: FlatModel,
        corrections: Iterable[Correction] = (),
        velocity: Tensor | None = None,  # (P,) to go on with, changed in place; None = zero
    ) -> None:
        self._order = order
        self._schedule = Schedule(order.schedule.kind, order.schedule.lr, order.schedule.warmup)
        self._parameters = model.vector[: model.layout.parameter_count]
        self._gradient = model.gradient
        self._velocity: Tensor | None = None
        if order.momentum:
            self._velocity = torch.zeros_like(model.gradient) if velocity is None else velocity
        self._corrections = tuple(corrections)

    @property
    def velocity(self) -> Tensor | None:
        """(P,), as the last step left it; None without momentum."""
        return self._velocity

    def lr(self, step: int) -> float:
        """Learning rate of local step number `step`."""
        spread = self._order.progress_end - self._order.progress_start
        return self._schedule.at(self._order.progress_start + spread * step / self._order.local_steps)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Local step number `step`, by the gradient that the model holds; changes that too."""
        order, gradient = self._order, self._gradient
        for correct in self._corrections:
            correct(self._parameters, gradient)
        if order.weight_decay:
            gradient.add_(self._parameters, alpha=order.weight_decay)
        if self._velocity is not None:
            self._velocity.mul_(order.momentum).add_(gradient)
            if order.nesterov:
                gradient.add_(self._velocity, alpha=order.momentum)
        moves = self._velocity if self._velocity is not None and not order.nesterov else gradient
        self._parameters.add_(moves, alpha=-self.lr(step))
