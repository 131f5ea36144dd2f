"""Federated averaging with server momentum."""

from __future__ import annotations

from dataclasses import dataclass

from leader.optimizers.base import State, Step
from leader.optimizers.sgd import Sgd
from utils.vector import Vector


@dataclass(frozen=True)
class FedAvgM:
    """FedAvgM (Hsu et al. 2019, section 4.3): v = momentum * v - mean;  w = w - lr * v.

    That is SGD with momentum where the gradient is minus the mean delta.
    """

    lr: float = 1.0
    momentum: float = 0.9

    def init(self, size: int) -> State:
        """Zero velocity, if there is momentum."""
        return Sgd(self.momentum).init(size)

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New velocity and parameters, (P,) each."""
        return Sgd(self.momentum).apply(state, parameters, -mean, Step(self.lr))
