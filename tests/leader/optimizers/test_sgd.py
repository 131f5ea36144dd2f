from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from leader.optimizers.base import Step
from leader.optimizers.sgd import Sgd

SIZE = 1000
LRS = (0.1, 0.05, 0.2, 0.01, 0.1)


def vectors(count: int) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    generator = np.random.Generator(np.random.PCG64(1))
    return [generator.normal(size=SIZE).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    ("momentum", "weight_decay", "nesterov"),
    [(m, w, n) for m, w, n in itertools.product((0.0, 0.9), (0.0, 0.01), (False, True)) if m or not n],
)
def test_steps_are_those_of_torch(momentum: float, weight_decay: float, nesterov: bool) -> None:
    weights, *gradients = vectors(1 + len(LRS))
    theirs = torch.nn.Parameter(torch.tensor(weights))
    reference = torch.optim.SGD(
        [theirs], lr=1.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    optimizer = Sgd(momentum, weight_decay, nesterov)
    state = optimizer.init(SIZE)
    for lr, gradient in zip(LRS, gradients, strict=True):
        reference.param_groups[0]["lr"] = lr
        theirs.grad = torch.tensor(gradient)
        reference.step()
        state, weights = optimizer.apply(state, weights, gradient, Step(lr))
        np.testing.assert_allclose(weights, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)
    assert weights.dtype == np.float32


def test_a_step_by_hand() -> None:
    weight, gradient = np.array([2.0], np.float32), np.array([1.0], np.float32)
    optimizer = Sgd(momentum=0.5, weight_decay=0.5, nesterov=True)
    # g = 1 + 0.5 * 2 = 2;  v = 0.5 * 4 + 2 = 4;  w = 2 - 0.25 * (2 + 0.5 * 4) = 1
    state, after = optimizer.apply({"velocity": np.array([4.0], np.float32)}, weight, gradient, Step(0.25))
    assert state["velocity"].tolist() == [4.0]
    assert after.tolist() == [1.0]


def test_only_momentum_needs_state() -> None:
    assert Sgd(momentum=0.0, weight_decay=0.1).init(3) == {}
    assert Sgd(momentum=0.9).init(3)["velocity"].tolist() == [0.0, 0.0, 0.0]
