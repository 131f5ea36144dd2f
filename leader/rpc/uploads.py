"""Receiving updates: bounded in memory, in time and in form, before anything reaches the sum.

A stream that breaks half way leaves what it brought behind, inside the byte budget, so that the
learner can go on at that byte; it is dropped when its work is no longer open or others need room.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from leader.aggregation.decoding import UpdateReader
from leader.config import LimitsConfig
from leader.places import Place, Places
from leader.training.inbox import Upload
from leader.training.round_metrics import Traffic
from protos import leader_pb2
from utils.errors import ChecksumError, LimitError, PayloadError
from utils.wire.payload import Manifest, PayloadReader
from utils.wire.rpc import UploadMessage

#: Of a chunk that is summed where it lies; with smaller ones, what each costs beside its bytes would count.
_KEPT_BYTES = 32 << 10

#: Of a first message that needs no place any more once it is here; a header has less.
_SMALL_BYTES = 64 << 10

Key = tuple[str, int, int]  # work id, total bytes, CRC-32: equal keys mean equal bytes


@dataclass(frozen=True)
class Opening:
    """The first message of a stream: the header of a full learner, or a plain learner's first chunk."""

    message: UploadMessage
    place: Place  # among first messages, or among updates
    whole: bool  # whether it is a place for the whole update


@dataclass(frozen=True)
class _Transfer:
    """One update on its way, and its share of the budget."""

    reader: PayloadReader
    place: Place


class Uploads:
    """Reads AccumulateGradients streams under the limits of the run."""

    def __init__(
        self,
        decoder: UpdateReader,
        limits: LimitsConfig,
        traffic: Traffic,
        is_open: Callable[[str], bool],
        at_chunk: Callable[[], None] = lambda: None,
    ) -> None:
        self._decoder = decoder
        self._limits = limits
        self._traffic = traffic
        self._is_open = is_open  # whether the work with this id is still wanted
        self.at_chunk = at_chunk  # called after each chunk
        #: Called with what a broken stream has left behind.
        self.left: Callable[[Key, PayloadReader], None] = lambda key, reader: None
        self.max_bytes = decoder.max_bytes + limits.header_bytes
        # Of each stream in a line gRPC has taken in a window of bytes.
        line = max(1, limits.upload_bytes // (2 * limits.window_bytes))
        firsts = max(2, limits.upload_bytes // (2 * limits.message_bytes))
        self._firsts = Places(firsts, limits.slow_bytes_per_s, line)
        self._budget = Places(limits.upload_bytes, limits.slow_bytes_per_s, line)
        self._broken: dict[Key, _Transfer] = {}  # oldest first
        self._one_header = asyncio.Lock()
        self._stalled = (
            f"next to no bytes for {limits.stall_s:g} s in the middle of an update; send the rest again"
        )
        self._mute = f"no first message in {limits.hello_s:g} s (limits.hello_s); send the update again"

    @asynccontextmanager
    async def opening(
        self, caller: str, messages: AsyncIterator[UploadMessage], *, ranked: bool, whole: bool = False
    ) -> AsyncIterator[Opening]:
        """Read a stream's first message; what it takes until it is understood has a place inside the block.

        gRPC makes room for all of a message as soon as it is asked for, up to limits.message_bytes. With `whole` the
        place is one for an update of any size, as that of a plain learner, whose first message is of it.
        Raises PayloadError, StalledError or BusyError.
        """
        places, size = (self._budget, self._share(self.max_bytes)) if whole else (self._firsts, 1)
        async with places.hold(caller, size, ranked=ranked) as place:
            async with self.moving(place) if ranked else place.moving(self._limits.hello_s, self._mute):
                message = await self.next(messages)
            if message is None:
                raise PayloadError("the update is empty; send one safetensors file in chunks")
            if not whole and _size(message) <= _SMALL_BYTES:
                place.free()
            yield Opening(message, place, whole)

    def received(self, request: leader_pb2.UploadRequest) -> int:
        """Bytes that an earlier, broken stream of this update left here."""
        transfer = self._broken.get(key_of(request))
        return transfer.reader.received if transfer else 0

    def holds(self, key: Key, reader: PayloadReader) -> bool:
        """Whether this is what a broken stream has left here, and nobody goes on with it."""
        return key in self._broken and self._broken[key].reader is reader

    async def restore(
        self, caller: str, request: leader_pb2.UploadRequest, chunks: Iterable[memoryview]
    ) -> None:
        """Hold what a stream of this update left elsewhere, as if it had broken here.

        Raises PayloadError or LimitError for what can't be the update's beginning, and BusyError.
        """
        header = leader_pb2.UpdateHeader(work_id=request.work_id, total_bytes=request.total_bytes)
        place = await self._budget.take(caller, self._share(request.total_bytes), ranked=True)
        transfer = _Transfer(self.reader(request.total_bytes, self._acceptor(header), _KEPT_BYTES), place)
        try:
            for chunk in chunks:
                await self.feed(transfer.reader, chunk)
        finally:
            self._keep(key_of(request), transfer)

    @asynccontextmanager
    async def receiving(
        self, caller: str, opening: Opening, messages: AsyncIterator[UploadMessage]
    ) -> AsyncIterator[Upload]:
        """Read the whole update and hold its memory inside the `async with` block.

        Raises PayloadError, LimitError, ChecksumError, StalledError or BusyError.
        """
        header = header_of(opening.message)
        key = key_of(header) if header and not opening.whole else None
        transfer = await self._begin(caller, opening, header, key)
        try:
            size = await self._read(transfer, opening.message, messages)
            upload = Upload(header, transfer.reader.finish(header.crc32 if header else None), size)
            yield upload
        finally:
            if key is None:
                transfer.place.free()
            elif self._keep(key, transfer):
                self.left(key, transfer.reader)

    def _keep(self, key: Key, transfer: _Transfer) -> bool:
        """Hold what has come so far for whoever goes on with it; else, where that can't be, let go of it."""
        if not transfer.reader.resumable or key in self._broken:
            transfer.place.free()
            return False
        self._broken[key] = transfer
        transfer.place.leave(lambda: self._forget(key))
        return True

    def _forget(self, key: Key) -> None:
        del self._broken[key]

    async def _begin(
        self, caller: str, opening: Opening, header: leader_pb2.UpdateHeader | None, key: Key | None
    ) -> _Transfer:
        """A broken transfer to go on with, or a new one once there is budget for it."""
        if header is not None and header.total_bytes > self.max_bytes:
            raise LimitError(f"update of {header.total_bytes} bytes; at most {self.max_bytes} are taken")
        broken = self._broken.pop(key, None) if key else None
        if header is not None and broken is not None and header.offset == broken.reader.received:
            opening.place.free()
            broken.place.resume()
            return broken
        if broken is not None:
            broken.place.free()
        if header is not None and header.offset:
            raise ChecksumError(f"the first {header.offset} bytes are no longer held here; send all of them")
        size = min(self.max_bytes, header.total_bytes) if header is not None else self.max_bytes
        place = opening.place if opening.whole else await self._room(caller, size, opening.place)
        return _Transfer(self.reader(size, self._acceptor(header), _KEPT_BYTES), place)

    async def _room(self, caller: str, size: int, first: Place) -> Place:
        """A place for an update, in place of that of its first message."""
        for key in list(self._broken):
            if not self._is_open(key[0]):
                self._broken.pop(key).place.free()
        # Without a place the stream is not read, and gRPC's flow control holds the learner back.
        async with first.moving(math.inf, ""):  # which others may want
            place = await self._budget.take(caller, self._share(size), ranked=True)
        first.free()
        return place

    def _share(self, size: int) -> int:
        """What an update of `size` bytes takes of the budget: gRPC makes room for whatever message is on its way."""
        return max(size, self._limits.message_bytes)

    def moving(self, place: Place) -> AbstractAsyncContextManager[None]:
        """Bytes of an update are to come inside the block; see Place."""
        return place.moving(self._limits.stall_s, self._stalled)

    def reader(
        self, size: int, accept: Callable[[Manifest], None], keep_from: int | None = None
    ) -> PayloadReader:
        """A reader of a file of at most `size` bytes, under the limits of the run; see PayloadReader."""
        limits = self._limits
        return PayloadReader(
            max_bytes=size,
            header_bytes=self._decoder.header_bytes,
            accept=accept,
            max_tensors=limits.tensors,
            max_name=limits.name_length,
            keep_from=keep_from,
        )

    async def feed(self, reader: PayloadReader, chunk: memoryview) -> None:
        """Have `reader` take the next bytes; long headers are read one by one, off the event loop."""
        if reader.long_header_in(chunk):
            async with self._one_header:
                await asyncio.to_thread(reader.feed, chunk)
        else:
            reader.feed(chunk)

    @asynccontextmanager
    async def room(self, caller: str, size: int, *, ranked: bool) -> AsyncIterator[Place]:
        """Wait for `size` bytes of the budget and hold them inside the `async with` block."""
        async with self._budget.hold(caller, self._share(size), ranked=ranked) as place:
            yield place

    async def _read(
        self, transfer: _Transfer, first: UploadMessage, messages: AsyncIterator[UploadMessage]
    ) -> int:
        size = 0
        message: UploadMessage | None = first
        async with self.moving(transfer.place):
            while message is not None:
                if not isinstance(message, memoryview):
                    if message.HasField("header") and message is not first:
                        raise PayloadError("an update header may only stand in the first message")
                    message = memoryview(message.chunk)
                if len(message):  # empty ones are no sign of progress
                    transfer.place.moved(len(message))
                    size += len(message)
                    self._traffic.came(len(message))
                    await self.feed(transfer.reader, message)
                    self.at_chunk()
                message = await anext(messages, None)
        return size

    def _acceptor(self, header: leader_pb2.UpdateHeader | None) -> Callable[[Manifest], None]:
        def accept(manifest: Manifest) -> None:
            self._decoder.check(manifest)
            if header is not None and header.total_bytes != manifest.total_bytes:
                raise PayloadError(
                    f"update is announced with {header.total_bytes} bytes, its tensors need {manifest.total_bytes}"
                )

        return accept

    async def next(self, messages: AsyncIterator[UploadMessage]) -> UploadMessage | None:
        """The next message that says something, None after the last."""
        while (message := await anext(messages, None)) is not None:
            if _says_something(message):
                return message
        return None


def key_of(update: leader_pb2.UpdateHeader | leader_pb2.UploadRequest) -> Key:
    """The key of an update by what is said of it."""
    return update.work_id, update.total_bytes, update.crc32


def header_of(message: UploadMessage) -> leader_pb2.UpdateHeader | None:
    """The header of an update, where the message has one."""
    return message.header if not isinstance(message, memoryview) and message.HasField("header") else None


def _says_something(message: UploadMessage) -> bool:
    """Whether a message brings anything; empty ones are no sign of progress."""
    if isinstance(message, memoryview):
        return len(message) > 0
    return message.HasField("header") or message.HasField("piece") or len(message.chunk) > 0


def _size(message: UploadMessage) -> int:
    """Bytes of a message on the wire, about."""
    return len(message) if isinstance(message, memoryview) else message.ByteSize()
