"""SGD at the server, on the mean gradient or along the mean delta (FedAvg, FedAvgM, DiLoCo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from leader.optimizers.base import State, Step
from utils.vector import Vector


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as torch.optim.SGD defines it (dampening 0).

    g = mean + weight_decay * w;  v = momentum * v + g;  w = w - lr * (g + momentum * v if
    nesterov else v)   (Sutskever et al. 2013, eq. 3-4, in PyTorch's form).
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def init(self, size: int) -> State:
        """Zero velocity, if there is momentum."""
        return {"velocity": np.zeros(size, np.float32)} if self.momentum else {}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """One step; plain element-wise operations, so the bits do not depend on how it is cut up."""
        lr = np.float32(step.lr)
        gradient = mean + np.float32(self.weight_decay) * parameters if self.weight_decay else mean
        if not self.momentum:
            return state, parameters - lr * gradient
        velocity = np.float32(self.momentum) * state["velocity"]
        velocity += gradient
        change = gradient + np.float32(self.momentum) * velocity if self.nesterov else velocity
        return {"velocity": velocity}, parameters - lr * change


@dataclass(frozen=True)
class FedAvg:
    """FedAvg (McMahan et al. 2017, algorithm 1): w = w + lr * mean of the deltas, with lr = 1.

    Other learning rates are those of Reddi et al. 2021, algorithm 1 with SGD at the server.
    """

    lr: float = 1.0

    def init(self, size: int) -> State:
        """FedAvg keeps no state."""
        return {}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New parameters (P,)."""
        return state, parameters + (mean if self.lr == 1 else np.float32(self.lr) * mean)


@dataclass(frozen=True)
class FedAvgM:
    """FedAvgM (Hsu et al. 2019, section 4.3): v = momentum * v - mean;  w = w - lr * v.

    That is SGD with momentum where the gradient is minus the mean delta.
    """

    lr: float = 1.0
    momentum: float = 0.9
    nesterov: ClassVar[bool] = False

    def init(self, size: int) -> State:
        """Zero velocity, if there is momentum."""
        return Sgd(self.momentum).init(size)

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New velocity and parameters, (P,) each."""
        return Sgd(self.momentum, nesterov=self.nesterov).apply(state, parameters, -mean, Step(self.lr))


@dataclass(frozen=True)
class DiLoCo(FedAvgM):
    """DiLoCo (Douillard et al. 2023, algorithm 1): SGD with Nesterov momentum on the outer gradient.

    g = -mean delta;  v = momentum * v + g;  w = w - lr * (g + momentum * v). The paper's values are
    the defaults.
    """

    lr: float = 0.7
    nesterov: ClassVar[bool] = True
