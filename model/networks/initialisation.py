"""Seeded initial weights: the same bits on every machine."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.seeds import derive_seed


def initialise(model: nn.Module, seed: int) -> None:
    """Set every parameter and buffer of `model` from `seed` and the parameter names.

    Convolutions are uniform within sqrt(6 / fan_in), which keeps the variance through ReLUs (He
    et al. 2015); linear weights within sqrt(3 / fan_in), biases 0; normalisation is the identity.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            power = 6 if isinstance(module, nn.Conv2d) else 3
            _draw(module.weight, power, derive_seed(seed, "init", f"{name}.weight"))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()
        else:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            assert not own, f"no initialisation for {name or 'the root'}: {type(module).__name__}"


def uniform(size: int, seed: int) -> NDArray[np.float32]:
    """`size` float32 numbers, uniform in [-1, 1), the same bits for the same seed everywhere.

    The upper 24 bits of each output of Philox4x64-10 (Salmon et al. 2011) under key `seed`, read
    as a fraction: every step is exact, so neither threads, vector width nor library versions matter.
    """
    raw = np.random.Philox(key=seed).random_raw(size)
    return ((raw >> np.uint64(40)).astype(np.float32) - np.float32(2**23)) / np.float32(2**23)


def _draw(weight: Tensor, power: int, seed: int) -> None:
    bound = np.float32(math.sqrt(power / weight[0].numel()))
    values = uniform(weight.numel(), seed) * bound
    with torch.no_grad():
        weight.copy_(torch.from_numpy(values).view_as(weight))
