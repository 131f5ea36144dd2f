"""SGD with momentum on the mean gradient, for runs that exchange gradients."""

from __future__ import annotations

from dataclasses import dataclass

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
