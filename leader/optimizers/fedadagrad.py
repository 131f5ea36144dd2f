"""Adagrad at the server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leader.optimizers.base import State, Step
from utils.vector import Vector


@dataclass(frozen=True)
class FedAdagrad:
    """FedAdagrad (Reddi et al. 2021, algorithm 2, with beta1 = 0).

    v = v + mean^2;  w = w + lr * mean / (sqrt(v) + tau);  v starts at tau^2.
    """

    lr: float
    tau: float = 1e-3

    def init(self, size: int) -> State:
        """The second moment at tau^2."""
        return {"second": np.full(size, self.tau**2, np.float32)}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New second moment and parameters, (P,) each."""
        second = state["second"] + mean * mean
        change: Vector = np.divide(mean, np.sqrt(second) + np.float32(self.tau))
        return {"second": second}, parameters + np.float32(self.lr) * change
