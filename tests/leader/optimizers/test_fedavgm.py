from __future__ import annotations

import numpy as np

from leader.optimizers.base import Step
from leader.optimizers.sgd import FedAvgM
from tests.leader.optimizers.torch_steps import assert_steps_of_torch


def test_two_steps_by_hand() -> None:
    optimizer, weights = FedAvgM(lr=2.0, momentum=0.5), np.array([1.0], np.float32)
    state, weights = optimizer.apply(optimizer.init(1), weights, np.array([0.25], np.float32), Step(0.1))
    # v = -0.25;  w = 1 + 2 * 0.25
    assert (state["velocity"].tolist(), weights.tolist()) == ([-0.25], [1.5])
    state, weights = optimizer.apply(state, weights, np.array([1.0], np.float32), Step(0.1))
    # v = 0.5 * -0.25 - 1 = -1.125;  w = 1.5 + 2 * 1.125
    assert (state["velocity"].tolist(), weights.tolist()) == ([-1.125], [3.75])


def test_steps_are_those_of_torch_on_minus_the_mean() -> None:
    assert_steps_of_torch(FedAvgM(lr=0.3, momentum=0.9), lr=0.3, momentum=0.9, nesterov=False)


def test_without_momentum_it_is_fedavg() -> None:
    optimizer, mean = FedAvgM(lr=1.0, momentum=0.0), np.array([0.3], np.float32)
    state, after = optimizer.apply(optimizer.init(1), np.array([0.1], np.float32), mean, Step(0.1))
    assert state == {}
    assert after.tolist() == (np.array([0.1], np.float32) + mean).tolist()
