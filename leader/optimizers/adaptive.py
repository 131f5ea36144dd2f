"""Adagrad, Adam and Yogi at the server: steps divided by the root of a second moment."""

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
        return {"second": second}, parameters + _change(self.lr, mean, second, self.tau)


@dataclass(frozen=True)
class FedAdam:
    """FedAdam (Reddi et al. 2021, algorithm 2), without bias correction, as there.

    m = beta1 m + (1 - beta1) mean;  v = beta2 v + (1 - beta2) mean^2;
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
        second = self._second(state["second"], mean)
        return {"first": first, "second": second}, parameters + _change(self.lr, first, second, self.tau)

    def _second(self, second: Vector, mean: Vector) -> Vector:
        return np.float32(self.beta2) * second + np.float32(1 - self.beta2) * mean * mean


class FedYogi(FedAdam):
    """FedYogi (Reddi et al. 2021, algorithm 2): FedAdam with another second moment.

    v = v - (1 - beta2) mean^2 sign(v - mean^2).
    """

    def _second(self, second: Vector, mean: Vector) -> Vector:
        square = mean * mean
        return second - np.float32(1 - self.beta2) * square * np.sign(second - square)


def _change(lr: float, along: Vector, second: Vector, tau: float) -> Vector:
    return np.float32(lr) * np.divide(along, np.sqrt(second) + np.float32(tau))
