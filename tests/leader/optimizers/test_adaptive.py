"""FedAdagrad, FedAdam and FedYogi against the paper's algorithm 2, one scalar at a time in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from leader.optimizers.adaptive import FedAdagrad, FedAdam, FedYogi
from leader.optimizers.base import ServerOptimizer, Step

LR, BETA1, BETA2, TAU = 0.1, 0.8, 0.9, 0.05
SIZE, STEPS = 50, 8


def sign(x: float) -> float:
    return (x > 0) - (x < 0)


Moment = Callable[[float, float], float]  # (v, delta) to the next v

CASES: dict[str, tuple[ServerOptimizer, float, Moment]] = {
    "adagrad": (FedAdagrad(LR, TAU), 0.0, lambda v, d: v + d**2),
    "adam": (FedAdam(LR, BETA1, BETA2, TAU), BETA1, lambda v, d: BETA2 * v + (1 - BETA2) * d**2),
    "yogi": (
        FedYogi(LR, BETA1, BETA2, TAU),
        BETA1,
        lambda v, d: v - (1 - BETA2) * d**2 * sign(v - d**2),
    ),
}


def deltas() -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(1)).normal(0, 0.1, (STEPS, SIZE)).astype(np.float32)


def by_the_paper(x: float, column: list[float], beta1: float, moment: Moment) -> tuple[float, float, float]:
    m, v = 0.0, TAU**2
    for delta in column:
        m = beta1 * m + (1 - beta1) * delta
        v = moment(v, delta)
        x = x + LR * m / (math.sqrt(v) + TAU)
    return m, v, x


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_paper(case: str) -> None:
    optimizer, beta1, moment = CASES[case]
    state, weights = optimizer.init(SIZE), np.linspace(-1, 1, SIZE, dtype=np.float32)
    expected = [
        by_the_paper(float(x), column.tolist(), beta1, moment)
        for x, column in zip(weights, deltas().T, strict=True)
    ]
    for mean in deltas():
        state, weights = optimizer.apply(state, weights, mean, Step(123.0))
    first, second, final = (np.array(values) for values in zip(*expected, strict=True))
    np.testing.assert_allclose(weights, final, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["second"], second, rtol=1e-4)
    if beta1:
        np.testing.assert_allclose(state["first"], first, rtol=1e-4, atol=1e-7)
    else:
        assert set(state) == {"second"}


def test_a_first_step_of_each_by_hand() -> None:
    # v0 = 0.25, delta = 1.5: v = 0.25 + 2.25, so that sqrt(v) + 0.5 is not a round number; with yogi and
    # beta2 = 0 it is v = 0.25 + 2.25 as well, since delta^2 > v; adam with beta2 = 0 has v = 2.25.
    mean, zero = np.array([1.5], np.float32), np.zeros(1, np.float32)
    for optimizer, second in (
        (FedAdagrad(1.0, 0.5), 2.5),
        (FedYogi(1.0, 0.0, 0.0, 0.5), 2.5),
        (FedAdam(1.0, 0.0, 0.0, 0.5), 2.25),
    ):
        state, after = optimizer.apply(optimizer.init(1), zero, mean, Step(0.1))
        assert state["second"].tolist() == [second]
        assert after.tolist() == pytest.approx([1.5 / (math.sqrt(second) + 0.5)], rel=1e-6)


def test_a_weight_that_never_moves_stays() -> None:
    for optimizer, _, _ in CASES.values():
        state, weights = optimizer.init(1), np.array([0.25], np.float32)
        for _ in range(3):
            state, weights = optimizer.apply(state, weights, np.zeros(1, np.float32), Step(0.1))
        assert weights.tolist() == [0.25]
