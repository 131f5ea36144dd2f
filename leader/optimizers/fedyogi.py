"""Yogi at the server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leader.optimizers.base import State, Step
from utils.vector import Vector


@dataclass(frozen=True)
class FedYogi:
    """FedYogi (Reddi et al. 2021, algorithm 2), without bias correction, as there.

    m = beta1 m + (1 - beta1) mean;  v = v - (1 - beta2) mean^2 sign(v - mean^2);
    w = w + lr * m / (sqrt(v) + tau);  m starts at 0, v at tau^2.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def init(self, size: int) -> State:
        """First moment at 0, second at tau^2."""
        return {"first": np.zeros(size, np.float32), "second": np.full(size, self.tau**2, np.float32)}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New moments and parameters, (P,) each."""
        first = np.float32(self.beta1) * state["first"] + np.float32(1 - self.beta1) * mean
        square = mean * mean
        second = state["second"] - np.float32(1 - self.beta2) * square * np.sign(state["second"] - square)
        change: Vector = np.divide(first, np.sqrt(second) + np.float32(self.tau))
        return {"first": first, "second": second}, parameters + np.float32(self.lr) * change
