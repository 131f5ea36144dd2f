from __future__ import annotations

import numpy as np

from leader.optimizers.base import Step
from leader.optimizers.sgd import DiLoCo
from tests.leader.optimizers.torch_steps import assert_steps_of_torch


def test_two_steps_by_hand() -> None:
    optimizer, weights = DiLoCo(lr=0.5, momentum=0.5), np.array([1.0], np.float32)
    state, weights = optimizer.apply(optimizer.init(1), weights, np.array([1.0], np.float32), Step(0.1))
    # g = -1;  v = -1;  w = 1 + 0.5 * (1 + 0.5)
    assert (state["velocity"].tolist(), weights.tolist()) == ([-1.0], [1.75])
    state, weights = optimizer.apply(state, weights, np.array([0.5], np.float32), Step(0.1))
    # g = -0.5;  v = 0.5 * -1 - 0.5 = -1;  w = 1.75 + 0.5 * (0.5 + 0.5)
    assert (state["velocity"].tolist(), weights.tolist()) == ([-1.0], [2.25])


def test_the_papers_values_give_the_steps_of_torch() -> None:
    assert_steps_of_torch(DiLoCo(), lr=0.7, momentum=0.9, nesterov=True)
