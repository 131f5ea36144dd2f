from __future__ import annotations

import numpy as np
import torch

from leader.optimizers.base import Step
from leader.optimizers.diloco import DiLoCo


def test_two_steps_by_hand() -> None:
    optimizer, weights = DiLoCo(lr=0.5, momentum=0.5), np.array([1.0], np.float32)
    state, weights = optimizer.apply(optimizer.init(1), weights, np.array([1.0], np.float32), Step(0.1))
    # g = -1;  v = -1;  w = 1 + 0.5 * (1 + 0.5)
    assert (state["velocity"].tolist(), weights.tolist()) == ([-1.0], [1.75])
    state, weights = optimizer.apply(state, weights, np.array([0.5], np.float32), Step(0.1))
    # g = -0.5;  v = 0.5 * -1 - 0.5 = -1;  w = 1.75 + 0.5 * (0.5 + 0.5)
    assert (state["velocity"].tolist(), weights.tolist()) == ([-1.0], [2.25])


def test_the_papers_values_give_the_steps_of_torch() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    weights = generator.normal(size=100).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    reference = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    optimizer = DiLoCo()
    state = optimizer.init(100)
    for _ in range(10):
        mean = generator.normal(size=100).astype(np.float32)
        theirs.grad = -torch.tensor(mean, dtype=torch.float64)
        reference.step()
        state, weights = optimizer.apply(state, weights, mean, Step(0.1))
    np.testing.assert_allclose(weights, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
