from __future__ import annotations

import numpy as np

from leader.optimizers.base import Step
from leader.optimizers.sgd import FedAvg


def test_the_mean_delta_is_added_as_it_is_whatever_the_schedule() -> None:
    weights, mean = np.array([1.0, -2.0], np.float32), np.array([0.25, 4.0], np.float32)
    for lr in (0.0, 0.1, 1.0):
        state, after = FedAvg().apply(FedAvg().init(2), weights, mean, Step(lr))
        assert state == {}
        assert after.tolist() == [1.25, 2.0]
        assert after.dtype == np.float32
    assert weights.tolist() == [1.0, -2.0]


def test_a_server_learning_rate_scales_the_mean() -> None:
    weights, mean = np.array([1.0, -2.0], np.float32), np.array([0.25, 4.0], np.float32)
    _, after = FedAvg(lr=0.5).apply({}, weights, mean, Step(0.1))
    assert after.tolist() == [1.125, 0.0]
    assert after.dtype == np.float32
