"""The compute of one step, the same that a learner does, for the designs that Flockstep is compared with."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from model.device import choose_device
from model.image_classification import ImageClassification
from model.precision import autocast, choose_dtype
from model.task import to_device
from utils.batches import ShardSampler, batch_generator
from utils.datasets.data_file import load_dataset

LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def parse_work(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Work]:
    """The command line, of `parser` and of what a step computes, and that; it runs on one thread from now on."""
    parser.add_argument("--data", type=Path, required=True, help="data set file of this process")
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True, help="examples a step")
    parser.add_argument("--dtype", required=True, choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return options, Work(options)


class Work:
    """A model and its batches, one after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        data = load_dataset(options.data)
        self._task = ImageClassification(model=options.model, classes=len(data.classes))
        self._data = data
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.dtype, self._device)
        self._sampler = ShardSampler(len(data), options.batch, seed=0)
        self._number = 0
        self.module = self._task.build_model(seed=0).to(self._device)
        self.module.train()

    def backward(self, module: nn.Module) -> None:
        """Forward and backward of the next batch through `module`, which is the model or wraps it."""
        batch = self._task.make_batch(
            self._data, self._sampler.indices(self._number), batch_generator(0, self._number)
        )
        self._number += 1
        with autocast(self._device, self._dtype):
            loss = self._task.loss(module, to_device(batch, self._device))
        loss.backward()  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until the device has done what it was told; at once on the CPU."""
        torch.get_device_module(self._device).synchronize(self._device)


def make_optimizer(module: nn.Module) -> torch.optim.SGD:
    """The optimizer of all contenders: SGD with Nesterov momentum."""
    return torch.optim.SGD(
        module.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
