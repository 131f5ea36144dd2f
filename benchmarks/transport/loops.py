"""gRPC without Flockstep: a hand-framed grpc.aio loop, protobuf chunk objects, one unary message.

Nothing is checked; an upload is added to a float32 sum in the loop that receives it. One form of the loop
takes the CRC-32 and, in a thread, makes the exact sum: what is left to Flockstep's service is its own cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from grpc import aio
from numpy.typing import NDArray

from benchmarks.transport.wire import BARE, CHECKED, CHUNK, DOWN, OBJECTS, UNARY, Job
from leader.aggregation.exact_sum import ExactSum, Scale
from protos import leader_pb2
from utils.wire.checksum import crc32
from utils.wire.framing import frames, unframe
from utils.wire.rpc import raw

_SERVICE = "benchmark.Loops"
Context = aio.ServicerContext[Any, Any]
ModelChunk, GradientData = leader_pb2.ModelChunk, leader_pb2.GradientData
_FORMS = {BARE: "Framed", CHECKED: "Checked", OBJECTS: "Objects", UNARY: "Unary"}
_FRAMED = (BARE, CHECKED)


class LoopService:
    """The leader's end of all three."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._content = values.data.cast("B")
        self._framed = tuple(frames(b"", self._content, CHUNK))
        self.sum = np.zeros_like(values)
        self.exact = ExactSum(values.size, Scale.of(1024.0, 1 << 20))
        self._thread = ThreadPoolExecutor(1)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        pulled = grpc.unary_stream_rpc_method_handler
        pushed = grpc.stream_unary_rpc_method_handler
        whole = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "PullFramed": pulled(self._pull_framed, raw, raw),
                "PushFramed": pushed(self._push_framed, raw, raw),
                "PushChecked": pushed(self._push_checked, raw, raw),
                "PullObjects": pulled(self._pull_objects, raw, ModelChunk.SerializeToString),
                "PushObjects": pushed(self._push_objects, GradientData.FromString, raw),
                "PullUnary": whole(self._pull_unary, raw, ModelChunk.SerializeToString),
                "PushUnary": whole(self._push_unary, GradientData.FromString, raw),
            },
        )

    async def _pull_framed(self, request: bytes, context: Context) -> None:
        for message in self._framed:
            await context.write(message)

    async def _push_framed(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        place = 0
        async for message in messages:
            place = self._add(unframe(message), place)
        return b""

    async def _push_checked(self, messages: AsyncIterator[bytes], context: Context) -> bytes:
        chunks, crc = [], 0
        async for message in messages:
            chunk = unframe(message)
            assert chunk is not None
            crc = crc32(chunk, crc)
            chunks.append(np.frombuffer(chunk, np.float32))
        await asyncio.get_running_loop().run_in_executor(self._thread, self._add_exactly, chunks)
        return crc.to_bytes(4, "little")

    def _add_exactly(self, chunks: Sequence[NDArray[np.float32]]) -> None:
        place = 0
        for chunk in chunks:
            self.exact.add(chunk, 1, place)
            place += chunk.size

    async def _pull_objects(self, request: bytes, context: Context) -> None:
        for piece in _pieces(self._content):
            await context.write(ModelChunk(chunk=piece))

    async def _push_objects(
        self, messages: AsyncIterator[leader_pb2.GradientData], context: Context
    ) -> bytes:
        place = 0
        async for message in messages:
            place = self._add(message.chunk, place)
        return b""

    async def _pull_unary(self, request: bytes, context: Context) -> leader_pb2.ModelChunk:
        return ModelChunk(chunk=bytes(self._content))

    async def _push_unary(self, message: leader_pb2.GradientData, context: Context) -> bytes:
        self._add(message.chunk, 0)
        return b""

    def _add(self, chunk: bytes | memoryview | None, place: int) -> int:
        assert chunk is not None
        values = np.frombuffer(chunk, np.float32)
        self.sum[place : place + values.size] += values
        return place + values.size


class LoopLearner:
    """The learner's end."""

    def __init__(self, values: NDArray[np.float32], channel: aio.Channel) -> None:
        self._content = values.data.cast("B")
        self._channel = channel

    async def move(self, job: Job) -> None:
        """One transfer."""
        way, pull = job.endpoint.way, job.direction == DOWN
        method = f"/{_SERVICE}/{'Pull' if pull else 'Push'}{_FORMS[way]}"
        if way == UNARY:
            await self._unary(method, pull)
        elif pull:
            parse = unframe if way in _FRAMED else ModelChunk.FromString
            async for _ in self._channel.unary_stream(method, raw, parse)(b""):
                pass
        elif way in _FRAMED:
            await self._channel.stream_unary(method, raw, raw)(frames(b"", self._content, CHUNK))
        else:
            messages = (GradientData(chunk=piece) for piece in _pieces(self._content))
            await self._channel.stream_unary(method, GradientData.SerializeToString, raw)(messages)

    async def _unary(self, method: str, pull: bool) -> None:
        if pull:
            await self._channel.unary_unary(method, raw, ModelChunk.FromString)(b"")
        else:
            message = GradientData(chunk=bytes(self._content))
            await self._channel.unary_unary(method, GradientData.SerializeToString, raw)(message)


def _pieces(content: memoryview) -> Iterator[bytes]:
    return (bytes(content[start : start + CHUNK]) for start in range(0, len(content), CHUNK))
