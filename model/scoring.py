"""Scores of a model on examples: means over batches, the same bits however the batches fall in time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from model.precision import autocast
from model.task import Batch, Examples, Indices, Task, to_device

#: Means over a batch by name, such as `task.metrics`.
Measure = Callable[[nn.Module, Batch], Mapping[str, float]]


def score(
    module: nn.Module,
    task: Task,
    measure: Measure,
    examples: Examples,
    indices: Indices,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Example-weighted means of `measure` over the examples at `indices`, by name, without augmentation.

    `module` is left in evaluation mode.
    """
    module.eval()
    sums: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode(), autocast(device, dtype):
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = to_device(task.make_batch(examples, chosen, None), device)
            for name, mean in measure(module, batch).items():
                sums[name].append(len(chosen) * float(mean))
    return {name: math.fsum(parts) / len(indices) for name, parts in sums.items()}
