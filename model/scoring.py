"""Scores of a model on examples: means of a task's metrics, the same bits however the batches fall in time."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import nn

from model.precision import autocast
from model.task import Examples, Indices, Task, to_device


def score(
    module: nn.Module,
    task: Task,
    examples: Examples,
    indices: Indices,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Example-weighted means of `task.metrics` over the examples at `indices`, by name.

    `module` is left in evaluation mode.
    """
    module.eval()
    sums: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode(), autocast(device, dtype):
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = to_device(task.make_batch(examples, chosen, None), device)
            for name, mean in task.metrics(module, batch).items():
                sums[name].append(len(chosen) * float(mean))
    return {name: math.fsum(parts) / len(indices) for name, parts in sums.items()}


def mean_loss(
    module: nn.Module,
    task: Task,
    examples: Examples,
    indices: Indices,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Example-weighted mean of `task.loss` over the examples at `indices`, without augmentation."""
    module.eval()
    sums = []
    with torch.inference_mode(), autocast(device, dtype):
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = to_device(task.make_batch(examples, chosen, None), device)
            sums.append(len(chosen) * float(task.loss(module, batch)))
    return math.fsum(sums) / len(indices)
