from __future__ import annotations

import pytest
import torch

from model.precision import autocast, choose_dtype

CPU = torch.device("cpu")


def test_arithmetic_is_what_was_asked_for() -> None:
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
    assert choose_dtype("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_run_in_the_chosen_arithmetic_and_parameters_stay_float32(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 3)
    with autocast(CPU, dtype):
        out = layer(torch.ones(2, 4))
    assert out.dtype == dtype
    out.float().sum().backward()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
