"""Attackers that say little and have the leader make much of it: bombs in zstd, maps of metrics, costly JSON."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import numpy as np
import zstandard
from grpc import aio

from protos import leader_pb2
from tests.leader.trust.fleet import ALONE
from tests.strangers import Stranger, at_work
from utils.codecs.files import File
from utils.wire.framing import frame, rechunk
from utils.wire.rpc import raw

_CHUNK_BYTES = 1 << 20
_DEEP = b"[" * 900 + b"]" * 900  # below the depth at which a parser gives up


def costly_header(size: int) -> bytes:
    """A safetensors header of that many bytes whose JSON takes as long to read, and as much memory, as any."""
    text = b'{"a":[' + b",".join([_DEEP] * ((size - 20) // (len(_DEEP) + 1))) + b"]}"
    return size.to_bytes(8, "little") + text.ljust(size)


def bomb(inflated_bytes: int, codec: str) -> bytes:
    """An encoded update, compressed, that inflates to a costly header of that size."""
    frame = zstandard.ZstdCompressor(level=3).compress(costly_header(inflated_bytes))
    file = File.of({"zstd": np.frombuffer(frame, np.uint8)}, {"codec": codec, "compression": "zstd"})
    return file.header + file.body.tobytes()


def of_metrics(size: int, token: bytes, work_id: str) -> bytes:
    """The first message of an update, of about that size, whose header is a list of metrics that say nothing."""
    header = leader_pb2.UpdateHeader(token=token, work_id=work_id, examples=1, total_bytes=1000)
    text = header.SerializeToString() + b"\x4a\x00" * (size // 2)  # field 9, each empty
    return b"\x12" + frame(text)[1:]  # field 2


class HeaderAttacker:
    """A learner with an order that it never fulfils; each of its uploads ends with the status that is returned."""

    def __init__(self, address: str, stranger: Stranger, work_id: str) -> None:
        self.work_id = work_id
        self._address = address
        self._stranger = stranger

    async def upload(self, file: bytes) -> grpc.StatusCode:
        """Send this file as the update, over a connection of its own."""
        async with aio.insecure_channel(self._address, ALONE) as channel:
            return await self._upload(channel, file)

    async def _upload(self, channel: aio.Channel, file: bytes) -> grpc.StatusCode:
        header = leader_pb2.UpdateHeader(
            token=self._stranger.token,
            work_id=self.work_id,
            examples=1,
            total_bytes=len(file),
            crc32=zlib.crc32(file),
        )
        first = leader_pb2.GradientData(header=header).SerializeToString()
        return await _sent(channel, [first, *rechunk([file], _CHUNK_BYTES)])

    async def metrics(self, size: int) -> grpc.StatusCode:
        """Announce an update with that many bytes of metrics."""
        async with aio.insecure_channel(self._address, ALONE) as channel:
            return await _sent(channel, [of_metrics(size, self._stranger.token, self.work_id)])

    async def uploads(self, file: bytes, at_once: int, seconds: float) -> Counter[grpc.StatusCode]:
        """Send this file over and over, so many at once over four connections, for so long; what each ended with."""
        until, ends = asyncio.get_running_loop().time() + seconds, Counter[grpc.StatusCode]()

        async def again(channel: aio.Channel) -> None:
            while asyncio.get_running_loop().time() < until:
                ends[await self._upload(channel, file)] += 1

        async with AsyncExitStack() as held:
            channels = [
                await held.enter_async_context(aio.insecure_channel(self._address, ALONE)) for _ in range(4)
            ]
            await asyncio.gather(*(again(channels[i % 4]) for i in range(at_once)))
        return ends


async def _sent(channel: aio.Channel, messages: Sequence[bytes]) -> grpc.StatusCode:
    call: Any = channel.stream_unary("/leader.LeaderService/AccumulateGradients", request_serializer=raw)
    code: grpc.StatusCode = await call(_stream(messages)).code()
    return code


async def _stream(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@asynccontextmanager
async def header_attacker(address: str, name: str = "mallory") -> AsyncIterator[HeaderAttacker]:
    """Such a learner, once it has its order."""
    async with at_work(address, name) as stranger:
        yield HeaderAttacker(address, stranger, (await stranger.work()).work_id)
