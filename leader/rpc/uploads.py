"""Receiving updates: bounded in memory, in time and in form, before anything reaches the sum.

A stream that breaks half way leaves what it brought behind, inside the byte budget, so that the
learner can go on at that byte; it is dropped when its work is no longer open or others need room.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from leader.aggregation.decoding import Decoder
from leader.config import LimitsConfig
from leader.rpc.byte_budget import ByteBudget
from leader.training.inbox import Upload
from leader.training.round_metrics import Traffic
from model.flat import Layout
from protos import leader_pb2
from utils.errors import ChecksumError, LimitError, PayloadError, StalledError
from utils.wire.payload import Manifest, PayloadReader
from utils.wire.rpc import UploadMessage
from utils.wire.watchdog import Watchdog

_LEAST_BYTES = 16 << 10  # that an upload must bring in every limits.stall_s seconds
#: Of a chunk that is summed where it lies; with smaller ones, what each costs beside its bytes would count.
_KEPT_BYTES = 32 << 10

Key = tuple[str, int, int]  # work id, total bytes, CRC-32: equal keys mean equal bytes


@dataclass
class _Transfer:
    """One update on its way, and its share of the budget."""

    reader: PayloadReader
    share: AsyncExitStack = field(default_factory=AsyncExitStack)


class Uploads:
    """Reads AccumulateGradients streams under the limits of the run."""

    def __init__(
        self,
        layout: Layout,
        decoder: Decoder,
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
        self._max_bytes = 4 * layout.total + limits.header_bytes
        self._budget = ByteBudget(limits.upload_bytes)
        self._broken: dict[Key, _Transfer] = {}  # oldest first
        self._stalled = f"no bytes for {limits.stall_s:g} s in the middle of an update; send the rest again"

    async def first(self, messages: AsyncIterator[UploadMessage]) -> UploadMessage:
        """The stream's first message: the header of a full learner, or a plain learner's first chunk."""
        message = await self.next(messages)
        if message is None:
            raise PayloadError("the update is empty; send one safetensors file in chunks")
        return message

    def received(self, request: leader_pb2.UploadRequest) -> int:
        """Bytes that an earlier, broken stream of this update left here."""
        transfer = self._broken.get((request.work_id, request.total_bytes, request.crc32))
        return transfer.reader.received if transfer else 0

    @asynccontextmanager
    async def receiving(
        self, first: UploadMessage, messages: AsyncIterator[UploadMessage]
    ) -> AsyncIterator[Upload]:
        """Read the whole update and hold its memory inside the `async with` block.

        Raises PayloadError, LimitError, ChecksumError or StalledError.
        """
        header = header_of(first)
        key = (header.work_id, header.total_bytes, header.crc32) if header else None
        transfer = await self._begin(header, key)
        try:
            size = await self._read(transfer.reader, first, messages)
            upload = Upload(header, transfer.reader.finish(header.crc32 if header else None), size)
            yield upload
        finally:
            if (
                key is not None
                and transfer.reader.resumable
                and key not in self._broken
                and not self._budget.waited_for
            ):
                self._broken[key] = transfer
            else:
                await transfer.share.aclose()

    async def _begin(self, header: leader_pb2.UpdateHeader | None, key: Key | None) -> _Transfer:
        """A broken transfer to go on with, or a new one once there is budget for it."""
        if header is not None and header.total_bytes > self._max_bytes:
            raise LimitError(f"update of {header.total_bytes} bytes; at most {self._max_bytes} are taken")
        broken = self._broken.pop(key, None) if key else None
        if header is not None and broken is not None and header.offset == broken.reader.received:
            return broken
        if broken is not None:
            await broken.share.aclose()
        if header is not None and header.offset:
            raise ChecksumError(f"the first {header.offset} bytes are no longer held here; send all of them")
        size = min(self._max_bytes, header.total_bytes) if header is not None else self._max_bytes
        await self._make_room(size)
        transfer = _Transfer(self.reader(size, self._acceptor(header), _KEPT_BYTES))
        # Without budget the stream is not read, and gRPC's flow control holds the learner back.
        await transfer.share.enter_async_context(self._budget.hold(size))
        return transfer

    def reader(
        self, size: int, accept: Callable[[Manifest], None], keep_from: int | None = None
    ) -> PayloadReader:
        """A reader of a file of at most `size` bytes, under the limits of the run; see PayloadReader."""
        limits = self._limits
        return PayloadReader(
            max_bytes=size,
            header_bytes=limits.header_bytes,
            accept=accept,
            max_tensors=limits.tensors,
            max_name=limits.name_length,
            keep_from=keep_from,
        )

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait for `size` bytes of the budget and hold them inside the `async with` block."""
        await self._make_room(size)
        async with self._budget.hold(size):
            yield

    async def _make_room(self, size: int) -> None:
        """Drop broken transfers that nobody wants, and the oldest others as long as there is no room."""
        for key in list(self._broken):
            if not self._is_open(key[0]) or not self._budget.fits(size):
                await self._broken.pop(key).share.aclose()

    async def _read(
        self, reader: PayloadReader, first: UploadMessage, messages: AsyncIterator[UploadMessage]
    ) -> int:
        size = 0
        message: UploadMessage | None = first
        pace = Pace(self._limits.stall_s)
        async with Watchdog(self._limits.stall_s, self._stalled) as watchdog:
            while message is not None:
                if not isinstance(message, memoryview):
                    if message.HasField("header") and message is not first:
                        raise PayloadError("an update header may only stand in the first message")
                    message = memoryview(message.chunk)
                if len(message):  # empty ones are no sign of progress
                    watchdog.progress()
                    size += len(message)
                    self._traffic.came(len(message))
                    reader.feed(message)
                    pace.check(size)
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
        """The next message that says something, None after the last; raises StalledError."""
        async with Watchdog(self._limits.stall_s, self._stalled):
            while (message := await anext(messages, None)) is not None:
                if _says_something(message):
                    return message
            return None


class Pace:
    """The slowest that an upload may be: a dribble of bytes must not hold memory for ever."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._begin(0)

    def _begin(self, size: int) -> None:
        self._size = size
        self._ends = time.monotonic() + self._window_s

    def check(self, size: int) -> None:
        """`size` bytes are here; raises StalledError if too few of them came in the last window."""
        if size - self._size >= _LEAST_BYTES:
            self._begin(size)
        elif time.monotonic() > self._ends:
            raise StalledError(
                f"only {size - self._size} bytes in {self._window_s:g} s; at least {_LEAST_BYTES} are expected "
                "(limits.stall_s)"
            )


def header_of(message: UploadMessage) -> leader_pb2.UpdateHeader | None:
    """The header of an update, where the message has one."""
    return message.header if not isinstance(message, memoryview) and message.HasField("header") else None


def _says_something(message: UploadMessage) -> bool:
    """Whether a message brings anything; empty ones are no sign of progress."""
    if isinstance(message, memoryview):
        return len(message) > 0
    return message.HasField("header") or message.HasField("piece") or len(message.chunk) > 0
