"""SCAFFOLD's server control variate, around any other server optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leader.optimizers.base import ServerOptimizer, State, Step
from utils.vector import Vector

CONTROL = "control"  # name of the control variate in the state


@dataclass(frozen=True)
class Scaffold:
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1, option II), the server's half.

    Learner i goes from x to y_i in K steps along g - c_i + c, and its control variate becomes
    c_i+ = c_i - c + (x - y_i) / (K lr). With delta_i = y_i - x that is c_i+ - c_i = -c - delta_i / (K lr),
    so the server needs nothing but the mean delta to follow: c = c + participation * (-c - mean / (K lr)).
    K lr is `Step.local_lr`: how far the K steps carry a constant gradient of one, whatever their rates and momentum
    are, so that a variate is a mean of the steps' gradients. Where examples differ the mean is weighted.
    Where no step was made (`local_lr` 0), c stays as it is.
    """

    inner: ServerOptimizer

    def init(self, size: int) -> State:
        """The inner optimizer's state and a zero control variate."""
        return {**self.inner.init(size), CONTROL: np.zeros(size, np.float32)}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """The inner optimizer's step, and the new control variate (P,)."""
        inner = {name: vector for name, vector in state.items() if name != CONTROL}
        after, moved = self.inner.apply(inner, parameters, mean, step)
        control = state[CONTROL]
        if step.local_lr:
            mean_gradient: Vector = np.divide(mean, np.float32(-step.local_lr))
            control = control + np.float32(step.participation) * (mean_gradient - control)
        return {**after, CONTROL: control}, moved
