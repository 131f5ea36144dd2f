"""Images a second of a delta learner's local steps, beside a bare loop over images that are on the device already."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.gpu.job import Job
from benchmarks.result import Figure, Result
from benchmarks.spread import Spread
from learner.training.trainer import Trainer
from learner.training.update import Assignment
from learner.work.workbench import Tools, build_trainer
from model.device import choose_device
from model.image_classification import ImageClassification
from model.precision import autocast, choose_dtype
from protos import leader_pb2
from utils.batches import normalise
from utils.datasets import Dataset, open_dataset
from utils.datasets.synthetic import synthetic_shapes

LR, MOMENTUM, WEIGHT_DECAY = 0.02, 0.9, 5e-4
_WARMUP = 1  # blocks


def measure(job: Job) -> Result:
    """Blocks of each in turn; the learner's have the copy of the model to the device and of its change back."""
    model, batch, dtype = ("resnet9-w8", 32, "float32") if job.quick else ("resnet9-w64", 512, "bfloat16")
    steps, blocks = (4, 1) if job.quick else (50, 3)
    data = open_dataset(str(job.data), job.data).train if job.data else synthetic_shapes(16 * batch, 1).train
    data = data.take(16 * batch if job.quick else 0)
    device = choose_device(job.device)
    description = leader_pb2.RunDescription(model=model, norm="batch", classes=len(data.classes))
    trainer = build_trainer(description, Tools(device))
    assignment = _assignment(trainer, model, data, _order(steps, batch, dtype))
    bare = BareLoop(model, data, device, batch, choose_dtype(dtype, device))
    ours, theirs = [], []
    for _ in range(_WARMUP + blocks):
        update = trainer.run(assignment)
        ours.append(update.trained / update.seconds)
        theirs.append(bare.rate(steps))
    spreads = {"learner": Spread.of(ours[_WARMUP:]), "bare loop": Spread.of(theirs[_WARMUP:])}
    images = "CIFAR-10" if job.data else "drawn images"
    return Result(
        entry="images",
        about=f"{model}, batch {batch}, {dtype}, {images}; the learner crops and flips, the bare loop does not",
        target=None,
        figures=tuple(Figure(name, "images/s", spread) for name, spread in spreads.items()),
        ratios={"learner to bare loop": spreads["learner"].median / spreads["bare loop"].median},
    )


def _order(steps: int, batch: int, dtype: str) -> leader_pb2.WorkOrder:
    return leader_pb2.WorkOrder(
        round=1,
        exchange="delta",
        local_steps=steps,
        batch_size=batch,
        dtype=dtype,
        schedule=leader_pb2.Schedule(kind="constant", lr=LR),
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
        augment="standard",
    )


def _assignment(trainer: Trainer, model: str, data: Dataset, order: leader_pb2.WorkOrder) -> Assignment:
    task = ImageClassification(model=model, classes=len(data.classes))
    return Assignment(order, trainer.model.snapshot().cpu().numpy(), task, data)


class BareLoop:
    """The same model, batch and arithmetic, as one would write it without us."""

    def __init__(
        self, model: str, data: Dataset, device: torch.device, batch: int, dtype: torch.dtype
    ) -> None:
        self._device, self._batch, self._dtype = device, batch, dtype
        self._images = normalise(torch.from_numpy(np.array(data.images)).to(device), channels_last=True)
        self._labels = torch.from_numpy(np.array(data.labels)).to(device)
        task = ImageClassification(model=model, classes=len(data.classes))
        self._module = task.build_model(0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(
            self._module.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
        )

    def rate(self, steps: int) -> float:
        """Images a second over so many steps."""
        self._module.train()
        began = time.perf_counter()
        for _ in range(steps):
            rows = torch.randint(len(self._labels), (self._batch,), device=self._device)
            with autocast(self._device, self._dtype):
                loss = cross_entropy(self._module(self._images[rows]).float(), self._labels[rows])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        torch.get_device_module(self._device).synchronize(self._device)
        return steps * self._batch / (time.perf_counter() - began)
