"""An update as it goes up a gradient stream: encoded piece by piece, and kept until its step is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from learner.memory import Memory
from learner.training.update import Score
from learner.wire.encoding import Encoder
from learner.wire.whole_update import metrics_of
from protos import leader_pb2
from utils.codecs.pieces import Piece
from utils.vector import Vector
from utils.wire.framing import frames


@dataclass(frozen=True)
class SentPiece:
    """One piece, framed."""

    number: int
    total_bytes: int
    crc32: int
    messages: tuple[bytes, ...]  # GradientData with its chunks

    def announced(self, attempt: int) -> bytes:
        """The message before its chunks."""
        piece = leader_pb2.Piece(
            number=self.number, total_bytes=self.total_bytes, crc32=self.crc32, attempt=attempt
        )
        return leader_pb2.GradientData(piece=piece).SerializeToString()


@dataclass(eq=False)
class StreamedUpdate:
    """One order's update, as far as it is made."""

    order: leader_pb2.WorkOrder
    part: str
    base: Vector  # (total,): the model that it started from
    count: int  # pieces in all
    said: leader_pb2.UpdateHeader = field(default_factory=leader_pb2.UpdateHeader)  # without token
    pieces: list[SentPiece] = field(default_factory=list)  # in the order in which they were made
    remembered: Mapping[str, Vector] = field(default_factory=dict)  # by the part, if it counts
    staged: bool = False  # whether the part's memory knows of that
    counted: bool | None = None  # None as long as its exchange is not over

    @property
    def place(self) -> tuple[int, int]:
        """Round and step."""
        return self.order.round, self.order.step

    @property
    def complete(self) -> bool:
        """Whether all pieces are made."""
        return len(self.pieces) == self.count

    def stage(self, memory: Memory) -> None:
        """Let the part remember what it must, if the update counts."""
        if self.remembered:
            memory.stage(self.part, self.order.round, self.remembered, self.order.step, durable=False)
            self.staged = True

    def settle(self, memory: Memory, *, counted: bool) -> None:
        """Its exchange is over: what is staged, or still will be, holds or is void."""
        self.counted = counted
        if self.staged and counted:
            memory.counted(self.part)
        elif self.staged:
            memory.refused(self.part)
            self.staged = False


class PieceMaker:
    """Watches a training step and turns its pieces into messages, in the training thread.

    `post` is called with each piece, and once before the first; by then the update's header is filled in.
    `memory` is what the part remembers; `stage` is called once `update` has what it is to remember, before the
    last piece is posted.
    """

    def __init__(
        self,
        update: StreamedUpdate,
        encoder: Encoder,
        memory: Mapping[str, Vector],
        chunk_bytes: int,
        post: Callable[[SentPiece | None], None],
        stage: Callable[[], None],
    ) -> None:
        self._update = update
        self._encoder = encoder
        self._memory = memory
        self._chunk_bytes = chunk_bytes
        self._post = post
        self._stage = stage
        self._began = time.perf_counter()
        self._made = 0

    @property
    def pieces(self) -> Sequence[Piece]:
        """The pieces of the flat vector."""
        return self._encoder.files.pieces

    def begun(self, examples: int, loss: float, scores: Mapping[str, Score]) -> None:
        """Fill the header in."""
        self._update.said.MergeFrom(
            leader_pb2.UpdateHeader(
                work_id=self._update.order.work_id,
                examples=examples,
                loss=loss,
                metrics=metrics_of(scores),
            )
        )
        self._post(None)

    def piece(self, number: int, values: Vector) -> None:
        """Encode a piece and post it."""
        file, remembered = self._encoder.encode(number, values, self._memory)
        self._update.remembered = {**self._update.remembered, **remembered}
        messages = tuple(frames(file.header, file.body.data, self._chunk_bytes))
        self._made += 1
        if self._made == self._update.count:
            self._update.said.seconds = time.perf_counter() - self._began
            self._stage()
        self._post(SentPiece(number, file.total_bytes, file.crc32, messages))
