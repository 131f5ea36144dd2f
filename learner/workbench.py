"""The workbench: turns work orders into updates; the same in a learner process and in a simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learner.memory import Memory
from learner.trainer import Assignment, Progress, Trainer, Update
from model.flat import FlatModel, Layout
from model.image_classification import ImageClassification
from model.task import Examples, Task
from protos import leader_pb2
from utils.errors import IncompatibleError


@dataclass(frozen=True)
class Download:
    """One version of the global model as the leader sends it."""

    vector: NDArray[np.float32]  # (total,)
    control: NDArray[np.float32] | None = None  # (P,): SCAFFOLD's control variate of the leader


@dataclass(frozen=True)
class Tools:
    """What a learner trains with, whatever the run."""

    device: torch.device
    task: Task | None = None  # the user's own; None = what the leader names
    compile: bool = False
    channels_last: bool = True


def build_trainer(
    run: leader_pb2.RunDescription, tools: Tools, trainer_type: type[Trainer] = Trainer
) -> Trainer:
    """A trainer for the run's model.

    Raises ConfigError for a model that can't be built, IncompatibleError where the run wants a task.
    """
    if run.own_task and tools.task is None:
        raise IncompatibleError(
            "this run trains a task of its own; start the learner with the same --task package.module:Name"
        )
    module = (tools.task or _images(run, tools)).build_model(0)
    model = FlatModel(module, tools.device)
    model.layout = model.layout.keeping(run.local)
    return trainer_type(model, compile_model=tools.compile)


class Assignments:
    """Puts together what each work order needs, and keeps what parts remember."""

    def __init__(self, run: leader_pb2.RunDescription, tools: Tools, memory: Memory) -> None:
        self._run = run
        self._tools = tools
        self._memory = memory
        memory.begin(run.run_id)

    def of(self, order: leader_pb2.WorkOrder, base: Download, examples: Examples, part: str) -> Assignment:
        """The assignment of `order`, whose examples are those of `part`."""
        return Assignment(
            order,
            base.vector,
            self._tools.task or _images(self._run, self._tools, order),
            examples,
            base.control,
            self._memory.of(part, order.round),
            self._run.holdout,
        )

    def made(self, order: leader_pb2.WorkOrder, part: str, update: Update) -> None:
        """Stage what the part is to remember; it holds once the update counts."""
        if update.memory:
            self._memory.stage(part, order.round, update.memory)


class Workbench:
    """One run's model at one learner; not thread-safe, `cancel` apart.

    Raises ConfigError for a model that can't be built, IncompatibleError where the run wants a task.
    """

    def __init__(
        self,
        run: leader_pb2.RunDescription,
        tools: Tools,
        memory: Memory,
        trainer_type: type[Trainer] = Trainer,
    ) -> None:
        self._trainer = build_trainer(run, tools, trainer_type)
        self._assignments = Assignments(run, tools, memory)

    @property
    def layout(self) -> Layout:
        """Of the run's model."""
        return self._trainer.model.layout

    def make(
        self,
        order: leader_pb2.WorkOrder,
        base: Download,
        examples: Examples,
        part: str,
        progress: Progress = lambda done, total, rate: None,
    ) -> Update:
        """The update of `order`; what the part remembers is staged until the update counts.

        Raises DivergedError, CancelledError or IncompatibleError.
        """
        update = self._trainer.run(self._assignments.of(order, base, examples, part), progress)
        self._assignments.made(order, part, update)
        return update

    def cancel(self) -> None:
        """Make the order that runs now raise CancelledError before its next step; any thread may call it."""
        self._trainer.cancel()


def _images(
    run: leader_pb2.RunDescription, tools: Tools, order: leader_pb2.WorkOrder | None = None
) -> ImageClassification:
    return ImageClassification(
        model=run.model,
        norm=run.norm,
        classes=run.classes,
        augment=order is not None and order.augment == "standard",
        label_smoothing=order.label_smoothing if order is not None else 0.0,
        channels_last=tools.channels_last,
    )
