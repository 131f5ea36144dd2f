from __future__ import annotations

import numpy as np
import pytest

from leader.optimizers.base import Step
from leader.optimizers.scaffold import Scaffold
from leader.optimizers.sgd import FedAvg, FedAvgM


def test_the_control_variate_follows_those_of_the_learners() -> None:
    """The paper's algorithm 1 with 3 learners of 2 sampled, in float64 and without the short cut."""
    generator = np.random.Generator(np.random.PCG64(1))
    examples = np.array([10, 20, 30])
    size, local_lr = 4, 0.3
    mine = np.zeros((3, size))  # c_i
    control = np.zeros(size)  # c
    optimizer = Scaffold(FedAvg())
    state, weights = optimizer.init(size), np.zeros(size, np.float32)
    for sampled in ([0, 1], [1, 2], [0, 2], [0, 1, 2]):
        deltas = generator.normal(size=(len(sampled), size))
        before = mine.copy()
        mine[sampled] += -control - deltas / local_lr  # option II; K lr = local_lr, delta = y - x
        share = examples[sampled] / examples.sum()
        control = control + share @ (mine - before)[sampled]
        mean = (examples[sampled] @ deltas / examples[sampled].sum()).astype(np.float32)
        state, weights = optimizer.apply(state, weights, mean, Step(0.1, local_lr, share.sum()))
        np.testing.assert_allclose(state["control"], control, rtol=1e-5, atol=1e-6)
    # All variates have been updated, so c is their mean over everybody.
    np.testing.assert_allclose(state["control"], examples @ mine / examples.sum(), rtol=1e-5, atol=1e-6)


def test_with_everybody_the_control_variate_is_the_mean_gradient() -> None:
    state = {"control": np.array([7.0], np.float32)}
    # learners went -0.5 at a summed rate of 0.25: their mean gradient was 2
    after, weights = Scaffold(FedAvg()).apply(
        state, np.array([1.0], np.float32), np.array([-0.5], np.float32), Step(0.1, 0.25, 1.0)
    )
    assert after["control"].tolist() == [2.0]
    assert weights.tolist() == [0.5]
    assert state["control"].tolist() == [7.0]


def test_where_no_step_was_made_the_control_variate_stays() -> None:
    after, _ = Scaffold(FedAvg()).apply(
        {"control": np.array([7.0], np.float32)}, np.zeros(1, np.float32), np.zeros(1, np.float32), Step(0.0)
    )
    assert after["control"].tolist() == [7.0]


@pytest.mark.parametrize("inner", [FedAvg(0.5), FedAvgM(0.5, 0.9)])
def test_the_weights_are_those_of_the_inner_optimizer(inner: FedAvg | FedAvgM) -> None:
    generator = np.random.Generator(np.random.PCG64(2))
    outer = Scaffold(inner)
    state, weights = outer.init(5), np.zeros(5, np.float32)
    plain, expected = inner.init(5), np.zeros(5, np.float32)
    for _ in range(3):
        mean = generator.normal(size=5).astype(np.float32)
        state, weights = outer.apply(state, weights, mean, Step(0.1, 0.2, 0.5))
        plain, expected = inner.apply(plain, expected, mean, Step(0.1))
    assert weights.tobytes() == expected.tobytes()
    assert set(state) == {*plain, "control"}
