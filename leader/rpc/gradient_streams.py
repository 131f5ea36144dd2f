"""Serving ExchangeGradients: pieces of updates under the limits of the run, new weights down the same stream.

The next piece of a stream is read when the last one is in the sum, and memory for it is taken from the
budget of all uploads; so gRPC's flow control holds back whoever is too fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from leader.config import LimitsConfig
from leader.evaluation.federated import check_metrics
from leader.learners.membership import Member
from leader.places import Place
from leader.rpc.uploads import Uploads
from leader.training.coordinator import Coordinator
from leader.training.exchanges.gradient_link import GradientLink
from leader.training.exchanges.pipeline import PieceStreams, not_open
from leader.training.inbox import Upload
from leader.training.open_orders import round_and_step
from protos import leader_pb2
from utils import faults
from utils.errors import (
    DuplicateUpdateError,
    LateUpdateError,
    LimitError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    WireError,
)
from utils.wire.payload import Manifest, Payload
from utils.wire.rpc import UploadMessage

Messages = AsyncIterator[UploadMessage]
Send = Callable[[bytes], Awaitable[None]]


@dataclass
class _Update:
    """The update whose pieces come now."""

    header: leader_pb2.UpdateHeader
    wanted: bool  # else its pieces are read and dropped: its work is over, or somebody else's
    bytes: int = 0


class GradientStreams:
    """Reads and writes the ExchangeGradients streams of a run."""

    def __init__(
        self, coordinator: Coordinator, streams: PieceStreams, uploads: Uploads, limits: LimitsConfig
    ) -> None:
        self._coordinator = coordinator
        self._desk = coordinator.desk
        self._streams = streams
        self._links = streams.links
        self._files = streams.files
        self._uploads = uploads
        self._limits = limits
        self._refused: dict[int, WireError] = {}  # by learner, what its last stream ended with

    def refusal(self, member: Member) -> WireError | None:
        """What the learner's last stream was refused with, told once: the status may not have reached it."""
        return self._refused.pop(member.learner_id, None)

    async def serve(
        self,
        caller: str,
        member_of: Callable[[bytes], Member],
        messages: Messages,
        send: Send,
        *,
        ranked: bool,
    ) -> None:
        """Serve one stream until either side ends it; `member_of` says whose token it is, or raises.

        `caller` is who opens it, and `ranked` whether it has work. Raises the WireError that the stream is refused
        with.
        """
        async with self._uploads.opening(caller, messages, ranked=ranked) as opening:
            first = opening.message
        if isinstance(first, memoryview) or not first.HasField("header"):
            raise PayloadError("the stream begins with the header of an update")
        member = member_of(first.header.token)
        link = self._links.open(member.learner_id)
        self._refused.pop(member.learner_id, None)
        stream = _Stream(self, member, member_of, link)
        reading = asyncio.ensure_future(stream.read(first, messages))
        writing = asyncio.ensure_future(self._write(link, send))
        try:
            done, _ = await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if reading in done:
                reading.result()
                link.end()
            await writing
        except WireError as error:
            here = self._coordinator.workforce
            self._refused = {id_: told for id_, told in self._refused.items() if here.get(id_)}
            self._refused[member.learner_id] = error
            raise
        finally:
            self._links.close(member.learner_id, link)
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _write(self, link: GradientLink, send: Send) -> None:
        async for message in link.messages():
            try:
                async with asyncio.timeout(self._limits.stall_s):
                    await send(message)
            except TimeoutError:
                raise StalledError("new weights were not read; open a new stream") from None
            self._coordinator.traffic.sent(len(message))
            faults.reach("leader.downloading", self._coordinator.state.round + 1)

    def begin(self, member: Member, link: GradientLink, header: leader_pb2.UpdateHeader) -> _Update:
        """An update is announced: let its stream follow the exchange that it is for."""
        check_metrics(header, 0)
        self._coordinator.traffic.up_quota.check(member.identity)
        self._coordinator.traffic.down_quota.check(member.identity)
        place = round_and_step(header.work_id)
        if place is None:
            raise LateUpdateError(f"work {header.work_id[:64]!r} was never given out; fetch new work")
        pipeline = self._streams.open_now
        open_here = pipeline is not None and place == (pipeline.round, pipeline.step)
        wanted = self._desk.owes(member, header.work_id)
        if pipeline is not None and open_here and (wanted or self._desk.knows(header.work_id)):
            pipeline.join(link, header.work_id)
        else:
            link.tell(not_open(*place))
        return _Update(header, wanted)

    async def take(
        self, member: Member, update: _Update, piece: leader_pb2.Piece, messages: Messages
    ) -> None:
        """Read the piece that is announced, and have it added to the sum."""
        if piece.number >= len(self._files.pieces):
            raise PayloadError(
                f"piece {piece.number} is announced, the model has {len(self._files.pieces)} pieces"
            )
        if piece.total_bytes > self._files.max_bytes(piece.number):
            raise LimitError(
                f"piece {piece.number} of {piece.total_bytes} bytes; at most "
                f"{self._files.max_bytes(piece.number)} are taken"
            )
        memory = self._files.memory(piece.number, piece.total_bytes) if update.wanted else 0
        async with self._uploads.room(member.identity, memory, ranked=update.wanted) as place:
            async with self._uploads.moving(place):
                payload = await self._receive(piece, messages, place, wanted=update.wanted)
            if payload is None:
                return
            update.bytes += piece.total_bytes
            upload = Upload(update.header, payload, update.bytes)
            try:
                await self._desk.submit(member, upload, update.header.work_id, piece)
            except (LateUpdateError, DuplicateUpdateError):
                update.wanted = False

    async def _receive(
        self, piece: leader_pb2.Piece, messages: Messages, place: Place, *, wanted: bool
    ) -> Payload | None:
        """The piece that is announced; None of one that is not wanted, which is read and dropped."""

        def accept(manifest: Manifest) -> None:
            self._files.check(piece.number, manifest)
            if manifest.total_bytes != piece.total_bytes:
                raise PayloadError(
                    f"piece {piece.number} is announced with {piece.total_bytes} bytes, its tensors need "
                    f"{manifest.total_bytes}"
                )

        reader = self._uploads.reader(piece.total_bytes, accept)
        async for chunk in self._chunks(piece, messages, place):
            if wanted:
                await self._uploads.feed(reader, chunk)
        return reader.finish(piece.crc32) if wanted else None

    async def _chunks(
        self, piece: leader_pb2.Piece, messages: Messages, place: Place
    ) -> AsyncIterator[memoryview]:
        """The chunks of a piece, which may not stop half way."""
        size = 0
        while size < piece.total_bytes:
            message = await self._uploads.next(messages)
            if not isinstance(message, memoryview):
                raise PayloadError(
                    f"piece {piece.number} stops after {size} of {piece.total_bytes} bytes; send the rest first"
                )
            size += len(message)
            if size > piece.total_bytes:
                raise PayloadError(f"piece {piece.number} goes on after its {piece.total_bytes} bytes")
            self._coordinator.traffic.came(len(message))
            place.moved(len(message))
            yield message
            self._uploads.at_chunk()


@dataclass
class _Stream:
    """The way up of one stream."""

    streams: GradientStreams
    member: Member
    member_of: Callable[[bytes], Member]
    link: GradientLink
    update: _Update | None = None  # whose pieces come now

    async def read(self, first: leader_pb2.GradientData, messages: Messages) -> None:
        """Take what the learner sends until it closes its side; between pieces it may take its time."""
        message: UploadMessage | None = first
        while message is not None:
            if not isinstance(message, memoryview):
                await self._heed(message, messages)
            elif len(message):
                raise PayloadError("a chunk came that belongs to no piece; announce each piece first")
            message = await anext(messages, None)

    async def _heed(self, message: leader_pb2.GradientData, messages: Messages) -> None:
        if message.chunk:
            raise PayloadError(
                "a chunk stands in a message of its own, behind the one that announces its piece"
            )
        if message.HasField("header"):
            self._begin(message.header)
        if message.HasField("piece"):
            if self.update is None:
                raise PayloadError("a piece came before the header of its update")
            await self.streams.take(self.member, self.update, message.piece, messages)

    def _begin(self, header: leader_pb2.UpdateHeader) -> None:
        if self.member_of(header.token).learner_id != self.member.learner_id:
            raise UnknownLearnerError("all updates of a stream are one learner's; open one stream each")
        before = self.update
        self.update = self.streams.begin(self.member, self.link, header)
        if before is not None and before.header.work_id == header.work_id:
            self.update.bytes = before.bytes
