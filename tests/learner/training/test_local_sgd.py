from __future__ import annotations

import pytest
import torch
from torch import nn

from learner.training.local_sgd import LocalSgd
from model.flat import FlatModel
from protos import leader_pb2

STEPS = 5


def one_more(parameters: torch.Tensor, gradient: torch.Tensor) -> None:
    gradient.add_(1.0)


def trained(device: str, *, fused: bool, momentum: float, nesterov: bool) -> torch.Tensor:
    """Weights after steps by the same gradients, which a correction turns."""
    order = leader_pb2.WorkOrder(
        local_steps=STEPS, momentum=momentum, nesterov=nesterov, weight_decay=0.1, progress_end=1.0,
        schedule=leader_pb2.Schedule(kind="cosine", lr=0.5),
    )  # fmt: skip
    torch.manual_seed(0)
    model = FlatModel(nn.Linear(40, 30), torch.device(device))
    sgd = LocalSgd(order, model, [one_more], fused=fused)
    draws = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        model.gradient.copy_(torch.randn(model.layout.parameter_count, generator=draws))
        sgd.step(step)
    return model.snapshot().cpu()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_fused_step_is_the_same_step(momentum: float, nesterov: bool) -> None:
    plain, fused = (
        trained("cpu", fused=each, momentum=momentum, nesterov=nesterov) for each in (False, True)
    )
    assert torch.allclose(plain, fused, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(plain, trained("cpu", fused=True, momentum=0.5, nesterov=False), rtol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_on_cuda_are_fused_and_those_of_the_cpu() -> None:
    here, there = (
        trained(device, fused=fused, momentum=0.9, nesterov=True)
        for device, fused in (("cpu", False), ("cuda", True))
    )
    assert torch.allclose(here, there, rtol=1e-5, atol=1e-6)
