from __future__ import annotations

import torch

from benchmarks.small_model import PARAMETERS, small_model


def test_the_small_model_has_the_promised_number_of_parameters() -> None:
    model = small_model(10, "batch")
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
