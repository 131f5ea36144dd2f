"""DiLoCo's outer optimizer: Nesterov momentum over many local steps."""

from __future__ import annotations

from dataclasses import dataclass

from leader.optimizers.base import State, Step
from leader.optimizers.sgd import Sgd
from utils.vector import Vector


@dataclass(frozen=True)
class DiLoCo:
    """DiLoCo (Douillard et al. 2023, algorithm 1): SGD with Nesterov momentum on the outer gradient.

    g = -mean delta;  v = momentum * v + g;  w = w - lr * (g + momentum * v). The paper's values are
    the defaults.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def init(self, size: int) -> State:
        """Zero velocity, if there is momentum."""
        return self._sgd.init(size)

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New velocity and parameters, (P,) each."""
        return self._sgd.apply(state, parameters, -mean, Step(self.lr))

    @property
    def _sgd(self) -> Sgd:
        return Sgd(self.momentum, nesterov=True)
