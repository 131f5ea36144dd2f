"""SCAFFOLD: local steps without a learner's drift (Karimireddy et al. 2020, https://arxiv.org/abs/1910.06378)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from learner.training.algorithms.base import Algorithm
from learner.training.algorithms.fedbn import local_places
from learner.training.local_sgd import Correction, learning_rate
from utils.errors import IncompatibleError
from utils.schedule import carried
from utils.vector import Vector

_CONTROL = "control"  # (P,): c_i, the part's own control variate


@dataclass(frozen=True)
class ControlVariate:
    """Takes out a learner's drift: algorithm 1, line 10."""

    drift: Tensor  # (P,): c - c_i

    def __call__(self, parameters: Tensor, gradient: Tensor) -> None:
        """gradient += c - c_i."""
        gradient.add_(self.drift)


class Scaffold(Algorithm):
    """`train.control_variates`; the leader's control variate c comes with the model."""

    def sizes(self) -> Mapping[str, int]:
        """See Algorithm."""
        return {_CONTROL: self.run.model.layout.parameter_count}

    def corrections(self) -> Sequence[Correction]:
        """See Algorithm."""
        return [ControlVariate(self.run.tensor(self._drift()))]

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        """See Algorithm."""
        # Option II of the paper: c_i+ = c_i - c + (x - y_i) / (K lr). In place of K lr stands how far the steps carry
        # a gradient, so that c_i is the mean of the steps' gradients whatever their rates and momentum are.
        order = self.run.order
        rates = (learning_rate(order, step) for step in range(order.local_steps))
        distance = np.float32(carried(rates, order.momentum, order.nesterov))
        if not distance:  # no step was made
            return {name: vector for name, vector in self.run.memory.items() if name == _CONTROL}
        control = -self._drift() - change[: len(self._drift())] / distance
        self._without_local(control)
        return {_CONTROL: control}

    def _drift(self) -> Vector:
        """c - c_i, (P,); zero where tensors stay local, which no other learner pulls along."""
        control, kept = self.run.assignment.control, self.run.memory.get(_CONTROL)
        if control is None or control.size != self.run.model.layout.parameter_count:
            raise IncompatibleError(
                "the leader sent no control variate that fits; install the same release on both"
            )
        drift: Vector = control - (kept if kept is not None else np.float32(0))
        self._without_local(drift)
        return drift

    def _without_local(self, vector: Vector) -> None:
        places = local_places(self.run.model.layout)
        vector[places[places < vector.size]] = 0
