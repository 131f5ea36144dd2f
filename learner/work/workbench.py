"""The workbench: turns work orders into updates; the same in a learner process and in a simulation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from learner.memory import Memory, Vectors
from learner.privacy_floor import PrivacyFloor
from learner.training.algorithms.streaming_diloco import is_head_of
from learner.training.example_privacy import ExamplePrivacy
from learner.training.trainer import Trainer
from learner.training.update import Assignment, Head, Progress, Update
from learner.wire.encoding import Coding
from learner.wire.masked_update import MaskedUpdate
from learner.wire.streamed_update import PieceMaker, SentPiece, StreamedUpdate
from learner.wire.transfer import Download
from learner.wire.whole_update import HeldUpdate, WholeUpdate
from model.flat import FlatModel
from model.image_classification import ImageClassification
from model.layout import Layout
from model.piece_files import PieceFiles
from model.task import Examples, Task
from protos import leader_pb2
from utils.errors import IncompatibleError
from utils.vector import Vector

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tools:
    """What a learner trains with, whatever the run."""

    device: torch.device
    task: Task | None = None  # the user's own; None = what the leader names
    compile: bool = False
    channels_last: bool = True
    privacy: ExamplePrivacy | None = None  # of its examples
    floor: PrivacyFloor = field(default_factory=PrivacyFloor)


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


def frozen_by(task: Task | None) -> str:
    """Fingerprint of what is frozen in the model of a task; "" = nothing, as in those that the leader names."""
    return Layout.of(task.build_model(0)).frozen if task else ""


class Assignments:
    """Puts together what each work order needs, and keeps what parts remember."""

    def __init__(self, run: leader_pb2.RunDescription, tools: Tools, memory: Memory, layout: Layout) -> None:
        self.coding = Coding(run, layout)
        self._run = run
        self._tools = tools
        self._memory = memory
        self._layout = layout
        memory.begin(run.run_id)

    def of(self, order: leader_pb2.WorkOrder, base: Download, examples: Examples, part: str) -> Assignment:
        """The assignment of `order`, whose examples are those of `part`."""
        return self._with(order, base, examples, self._remembered(order, part))

    def _remembered(self, order: leader_pb2.WorkOrder, part: str) -> Vectors:
        counted = order.counted_round if order.HasField("counted_round") else None
        return self._memory.of(part, order.round, order.step, counted)

    def ahead(self, order: leader_pb2.WorkOrder, examples: Examples, memory: Vectors) -> Assignment:
        """The assignment of a streamed order that has not come, nor its model; enough to begin with."""
        return self._with(order, Download(np.empty(0, np.float32)), examples, memory)

    def _with(
        self, order: leader_pb2.WorkOrder, base: Download, examples: Examples, memory: Vectors
    ) -> Assignment:
        return Assignment(
            order,
            base.vector,
            self._tools.task or _images(self._run, self._tools, order),
            examples,
            base.control,
            memory,
            self._run.holdout,
            charge=partial(self._tools.privacy.charge, self._run.run_id) if self._tools.privacy else None,
        )

    def made(self, order: leader_pb2.WorkOrder, base: Vector, part: str, update: Update) -> WholeUpdate:
        """The update, to be kept; what the part is to remember is staged, and holds once that counts."""
        update, before = _told(order, update), self._remembered(order, part)
        made: WholeUpdate
        if order.HasField("masking"):
            made, remembered = MaskedUpdate.of(order, update, base, self._layout, before)
        else:
            file, remembered = self.coding.encode(order, update.values, before)
            made = HeldUpdate.of(order, update, file)
        if vectors := {**update.memory, **remembered}:
            # A shard may have been another learner's meanwhile: of that an order tells as well.
            durable = order.exchange != "gradient"
            told = order.HasField("counted_round") and not order.HasField("shard")
            self._memory.stage(part, order.round, vectors, order.step, durable=durable, told=told)
        return made

    def maker(
        self, update: StreamedUpdate, memory: Vectors, post: Callable[[SentPiece | None], None]
    ) -> PieceMaker:
        """What turns the gradient of `update` into messages; `memory` is what its part remembers now."""
        stage = partial(update.stage, self._memory)
        encoder = self.coding.encoder(update.order)
        return PieceMaker(update, encoder, memory, self._run.chunk_bytes, post, stage)


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
        self._assignments = Assignments(run, tools, memory, self.layout)

    @property
    def layout(self) -> Layout:
        """Of the run's model."""
        return self._trainer.model.layout

    def changes(self, order: leader_pb2.WorkOrder) -> PieceFiles | None:
        """How what comes in place of the order's model is read; None where models come whole."""
        return self._assignments.coding.changes(order)

    def make(
        self,
        order: leader_pb2.WorkOrder,
        base: Download,
        examples: Examples,
        part: str,
        progress: Progress = lambda done, total, rate: None,
        head: Head | None = None,
    ) -> tuple[Update, WholeUpdate]:
        """The update of `order`, and as it is kept; what the part remembers is staged until it counts.

        `head` is what `begin` made, perhaps of another order. Raises DivergedError, CancelledError or
        IncompatibleError.
        """
        assignment = self._assignments.of(order, base, examples, part)
        if head is not None and is_head_of(head, order, assignment.memory):
            assignment = replace(assignment, head=head)
            fields = {"round": order.round, "part": part, "steps": len(head.losses)}
            _log.debug(
                "first steps made before the order came", extra={"event": "BegunAhead", "fields": fields}
            )
        update = self._trainer.run(assignment, progress)
        return update, self._assignments.made(order, base.vector, part, update)

    def make_in_pieces(
        self,
        update: StreamedUpdate,
        examples: Examples,
        post: Callable[[SentPiece | None], None],
        progress: Progress = lambda done, total, rate: None,
    ) -> Update:
        """What `make` does for an update that goes up while it is made; see PieceMaker for `post`."""
        base = Download(update.base)
        assignment = self._assignments.of(update.order, base, examples, update.part)
        maker = self._assignments.maker(update, assignment.memory, post)
        return self._trainer.run(replace(assignment, watcher=maker), progress)

    def begin(
        self,
        order: leader_pb2.WorkOrder,
        examples: Examples,
        memory: Vectors,
        progress: Progress,
    ) -> Head | None:
        """The first steps of a streamed order that has not come, of a part that will remember `memory`."""
        assignment = self._assignments.ahead(order, examples, memory)
        return self._trainer.head(assignment, progress)

    def expect(self) -> None:
        """See Trainer."""
        self._trainer.expect()

    def cancel(self) -> None:
        """See Trainer."""
        self._trainer.cancel()


def _told(order: leader_pb2.WorkOrder, update: Update) -> Update:
    """The update without what would tell of examples that are private."""
    if not order.HasField("examples"):
        return update
    return replace(update, loss=math.nan, start_loss=None, scores={})


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
