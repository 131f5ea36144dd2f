"""Receiving updates: bounded in memory, in time and in form, before anything reaches the sum."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from leader.aggregation.aggregate import check_update
from leader.budget import ByteBudget
from leader.config import LimitsConfig
from leader.traffic import Traffic
from model.flat import Layout
from protos import leader_pb2
from utils.errors import LimitError, PayloadError, StalledError
from utils.payload import Manifest, Payload, PayloadReader
from utils.rpc import UploadMessage


@dataclass(frozen=True)
class Upload:
    """A complete update as it came from the wire."""

    header: leader_pb2.UpdateHeader | None  # None from a plain learner
    payload: Payload
    bytes: int


class Uploads:
    """Reads AccumulateGradients streams under the limits of the run."""

    def __init__(self, layout: Layout, limits: LimitsConfig, traffic: Traffic) -> None:
        self._layout = layout
        self._limits = limits
        self._traffic = traffic
        self._max_bytes = 4 * layout.total + limits.header_bytes
        self.budget = ByteBudget(limits.upload_bytes)

    @property
    def size(self) -> int:
        """Bytes of memory that one upload may take."""
        return self._max_bytes

    async def first(self, messages: AsyncIterator[UploadMessage]) -> UploadMessage:
        """The stream's first message: the header of a full learner, or a plain learner's first chunk."""
        message = await self._next(messages)
        if message is None:
            raise PayloadError("the update is empty; send one safetensors file in chunks")
        return message

    async def receive(self, first: UploadMessage, messages: AsyncIterator[UploadMessage]) -> Upload:
        """The whole update; the caller holds `size` bytes of `budget`.

        Raises PayloadError, LimitError, ChecksumError or StalledError; nothing is kept then.
        """
        reader = PayloadReader(
            max_bytes=self._max_bytes, header_bytes=self._limits.header_bytes, accept=self._acceptor()
        )
        header: leader_pb2.UpdateHeader | None = None
        size = 0
        message: UploadMessage | None = first
        while message is not None:
            if not isinstance(message, memoryview):
                if message.HasField("header"):
                    if message is not first:
                        raise PayloadError("an update header may only stand in the first message")
                    header = message.header
                    if header.total_bytes > self._max_bytes:
                        raise LimitError(
                            f"update of {header.total_bytes} bytes; at most {self._max_bytes} are taken"
                        )
                message = memoryview(message.chunk)
            size += len(message)
            self._traffic.up += len(message)
            reader.feed(message)
            message = await self._next(messages)
        return Upload(header, reader.finish(header.crc32 if header else None), size)

    def _acceptor(self) -> Callable[[Manifest], None]:
        return lambda manifest: check_update(self._layout, manifest)

    async def _next(self, messages: AsyncIterator[UploadMessage]) -> UploadMessage | None:
        try:
            async with asyncio.timeout(self._limits.stall_s):
                return await anext(messages, None)
        except TimeoutError:
            raise StalledError(
                f"no bytes for {self._limits.stall_s:g} s in the middle of an update; send it again"
            ) from None
