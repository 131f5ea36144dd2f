"""What holds for every server optimizer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from leader.optimizers.adaptive import FedAdagrad, FedAdam, FedYogi
from leader.optimizers.base import ServerOptimizer, Step
from leader.optimizers.scaffold import Scaffold
from leader.optimizers.sgd import DiLoCo, FedAvg, FedAvgM, Sgd

SIZE = 100
STEP = Step(0.1, local_lr=0.5, participation=0.75)
OPTIMIZERS: list[ServerOptimizer] = [
    Sgd(),
    Sgd(0.9, 0.01, nesterov=True),
    FedAvg(),
    FedAvg(0.3),
    FedAvgM(),
    FedAdagrad(0.1),
    FedAdam(0.1),
    FedYogi(0.1),
    DiLoCo(),
    Scaffold(FedAdam(0.1)),
]
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)


def vectors(count: int) -> list[NDArray[np.float32]]:
    generator = np.random.Generator(np.random.PCG64(1))
    return [generator.normal(size=SIZE).astype(np.float32) for _ in range(count)]


@every_optimizer
def test_a_step_leaves_its_arguments_as_they_were(optimizer: ServerOptimizer) -> None:
    weights, mean = vectors(2)
    state, _ = optimizer.apply(optimizer.init(SIZE), weights, mean, STEP)
    given = [array.copy() for array in (weights, mean, *state.values())]
    optimizer.apply(state, weights, mean, STEP)
    for before, after in zip(given, (weights, mean, *state.values()), strict=True):
        np.testing.assert_array_equal(after, before)


@every_optimizer
def test_state_and_weights_are_float32_vectors_of_the_same_names(optimizer: ServerOptimizer) -> None:
    weights, mean = vectors(2)
    state = optimizer.init(SIZE)
    after, moved = optimizer.apply(state, weights, mean, STEP)
    assert set(after) == set(state)
    for vector in (*state.values(), *after.values(), moved):
        assert vector.dtype == np.float32
        assert vector.shape == (SIZE,)
    assert not np.array_equal(moved, weights)


@every_optimizer
def test_the_bits_do_not_depend_on_how_the_vector_is_cut_up(optimizer: ServerOptimizer) -> None:
    weights, first, second = vectors(3)
    state, weights = optimizer.apply(optimizer.init(SIZE), weights, first, STEP)
    _, whole = optimizer.apply(state, weights, second, STEP)
    pieces = [
        optimizer.apply({k: v[cut] for k, v in state.items()}, weights[cut], second[cut], STEP)[1]
        for cut in (slice(0, 7), slice(7, 50), slice(50, SIZE))
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
