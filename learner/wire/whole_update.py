"""An update that is made as a whole: kept until its round is committed, so that it can be sent again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from learner.secagg.sessions import MaskSessions
from learner.training.update import Score, Update
from protos import leader_pb2
from utils import faults
from utils.codecs.files import File
from utils.wire.framing import frames
from utils.wire.rpc import INLINE_BYTES


def metrics_of(scores: Mapping[str, Score]) -> list[leader_pb2.Metric]:
    """What held-out examples showed, as an update's header has it."""
    return [leader_pb2.Metric(name=n, value=one.value, examples=one.examples) for n, one in scores.items()]


class WholeUpdate:
    """One order's update, masked or not."""

    async def travelling(self, sessions: MaskSessions) -> HeldUpdate:
        """What is sent now; raises LateUpdateError if the round ends before that is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class HeldUpdate(WholeUpdate):
    """One order's update as it travels, encoded or masked."""

    round: int
    file: File
    said: leader_pb2.UpdateHeader  # without token and ticket

    @classmethod
    def of(cls, order: leader_pb2.WorkOrder, update: Update, file: File) -> HeldUpdate:
        """The update that answers `order`, in its file."""
        said = leader_pb2.UpdateHeader(
            work_id=order.work_id,
            examples=update.examples,
            total_bytes=file.total_bytes,
            crc32=file.crc32,
            loss=update.loss,
            seconds=update.seconds,
            metrics=metrics_of(update.scores),
            start_loss=update.start_loss,
        )
        return cls(order.round, file, said)

    async def travelling(self, sessions: MaskSessions) -> HeldUpdate:
        """See WholeUpdate: this itself, as nothing masks it."""
        return self

    def messages(
        self, token: bytes, chunk_bytes: int, offset: int = 0, ticket: bytes = b""
    ) -> Iterator[bytes]:
        """The AccumulateGradients stream, framed, from byte `offset` of the file on."""
        said = leader_pb2.UpdateHeader(token=token, ticket=ticket, offset=offset)
        said.MergeFrom(self.said)
        begun = leader_pb2.GradientData(header=said).SerializeToString()
        if self.file.total_bytes > INLINE_BYTES:
            yield begun
            begun = b""
        header = self.file.header
        body = self.file.body.data[max(0, offset - len(header)) :]
        for message in frames(header[offset:], body, chunk_bytes):
            # To protobuf, messages one after the other are one: of a small update each costs more than its bytes.
            yield begun + message
            begun = b""
            faults.reach("learner.uploading", self.round)
