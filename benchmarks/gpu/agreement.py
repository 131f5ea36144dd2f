"""Agreement with the CPU: the same short run in float32 from the same seed, on the CPU and on the device."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.gpu.job import Job
from benchmarks.result import Result, Target
from leader.config import RunConfig
from scripts.simulate.simulation import Options, simulate
from utils.datasets.data_file import save_dataset
from utils.datasets.synthetic import synthetic_shapes

#: Of the largest weight, and of a loss. Sums in another order, as oneDNN and PyTorch's own kernels make them on one
#: CPU, come to 6e-5 and 2e-6 here; bfloat16 to 7e-4 and 5e-5 at least.
TOLERANCE, LOSS_TOLERANCE = 3e-4, 5e-5
Weights = Mapping[str, NDArray[np.float32]]


def measure(job: Job) -> Result:
    """The largest differences; TF32, which keeps 11 bits of 24, is off."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        images = Path(scratch) / "images.safetensors"
        save_dataset(synthetic_shapes(256, 1).train, images)
        weights, losses = train(images, Path(scratch) / "on-cpu", "cpu")
        others, other_losses = train(images, Path(scratch) / "on-device", job.device)
    loss = max(abs(one - other) / abs(one) for one, other in zip(losses, other_losses, strict=True))
    return Result(
        entry="agreement",
        about=f"resnet9-w8, 2 learners, 2 rounds of 4 steps, float32 without TF32, CPU beside {job.device}",
        target=Target(
            "largest difference of a weight, of the largest", "", difference(weights, others), TOLERANCE
        ),
        figures=(),
        ratios={},
        further=(Target("largest relative difference of a round's loss", "", loss, LOSS_TOLERANCE),),
    )


def difference(weights: Weights, others: Weights) -> float:
    """The largest difference of a value, as a share of the largest value there is.

    >>> difference({"a": np.float32([1, -4]), "b": np.float32([1])}, {"a": np.float32([2, -4]), "b": np.float32([1])})
    0.25
    """
    largest = max(np.abs(values).max() for values in weights.values())
    return float(max(np.abs(values - others[name]).max() for name, values in weights.items()) / largest)


def train(images: Path, folder: Path, device: str) -> tuple[Weights, list[float]]:
    """The weights that a run ends with, and each round's loss."""
    config = RunConfig.model_validate(
        {
            "rounds": 2,
            "learners": 2,
            "seed": 1,
            "run_dir": folder,
            "model": {"name": "resnet9-w8"},
            "data": {"source": str(images)},
            "evaluation": {"every": 0},
            "train": {"local_steps": 4, "batch_size": 32, "lr": 0.005, "dtype": "float32"},
        }
    )
    simulate(config, Options(device=device))
    records = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return load_file(folder / "model.safetensors"), [json.loads(record)["loss"] for record in records]
