"""Torch's SGD as the reference of server optimizers that keep a velocity."""

from __future__ import annotations

import numpy as np
import torch

from leader.optimizers.base import ServerOptimizer, Step


def assert_steps_of_torch(optimizer: ServerOptimizer, *, lr: float, momentum: float, nesterov: bool) -> None:
    """Check ten steps against those that torch makes, in float64, along minus the mean."""
    generator = np.random.Generator(np.random.PCG64(1))
    weights = generator.normal(size=100).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    reference = torch.optim.SGD([theirs], lr=lr, momentum=momentum, nesterov=nesterov)
    state = optimizer.init(100)
    for _ in range(10):
        mean = generator.normal(size=100).astype(np.float32)
        theirs.grad = -torch.tensor(mean, dtype=torch.float64)
        reference.step()
        state, weights = optimizer.apply(state, weights, mean, Step(0.1))
    np.testing.assert_allclose(weights, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
