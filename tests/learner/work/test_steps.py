from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from torch import nn

from learner.memory import Memory
from learner.wire.connection import Connection
from learner.wire.streamed_update import SentPiece, StreamedUpdate
from learner.work.order_book import OrderBook
from learner.work.steps import Steps
from model.layout import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from tests.tools.grpc_server import started
from utils.errors import FlockstepError, UnreachableError, ValueRangeError
from utils.vector import Vector
from utils.wire.contract import LeaderStub
from utils.wire.framing import frames
from utils.wire.rpc import SERVICE, channel_options, raw, server_options
from utils.wire.status import REFUSED

LAYOUT = Layout.of(nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 4)))
FILES = PieceFiles(LAYOUT, 1, None)
COUNT = len(FILES.pieces)
TIMEOUT_S = 60.0
Handler = Callable[["Line"], Awaitable[None]]


class Line:
    """The leader's end of a stream, as a test plays it."""

    def __init__(
        self,
        messages: AsyncIterator[bytes],
        context: Any,
        refused: list[tuple[grpc.StatusCode, str]],
    ) -> None:
        self._messages = aiter(messages)
        self._context = context
        self._refused = refused
        self.headers: list[leader_pb2.UpdateHeader] = []

    async def piece(self) -> tuple[int, int]:
        """Number and attempt of the next piece that has come whole; headers before it are kept."""
        said, size = None, 0
        while said is None or size < said.total_bytes:
            message = leader_pb2.GradientData.FromString(await anext(self._messages))
            if message.HasField("header"):
                self.headers.append(message.header)
            if message.HasField("piece"):
                said = message.piece
            size += len(message.chunk)
        return said.number, said.attempt

    async def update(self) -> list[tuple[int, int]]:
        """All pieces of the next update."""
        return [await self.piece() for _ in range(COUNT)]

    async def say(self, **kind: Any) -> None:
        """Send one message."""
        await self._context.write(leader_pb2.ModelChunk(**kind).SerializeToString())

    async def weights(self, vector: Vector, numbers: range = range(COUNT)) -> None:
        """Send new weights, (total,)."""
        for number in numbers:
            piece = FILES.pieces[number]
            file = FILES.plain(number, vector[piece.start : piece.stop], {})
            said = leader_pb2.Piece(number=number, total_bytes=file.total_bytes, crc32=file.crc32)
            await self.say(piece=said)
            for message in frames(file.header, file.body.data, 50_000):
                await self._context.write(message)

    async def refuse(self, code: grpc.StatusCode, why: str) -> None:
        """End the stream with a status, which the learner may also ask for."""
        self._refused[:] = [(code, f"{REFUSED}{why}")]
        await self._context.abort(code, f"{REFUSED}{why}")


class Learner:
    """Steps of one learner, and what they tell it."""

    def __init__(self, stub: LeaderStub) -> None:
        run = leader_pb2.RunDescription(piece_bytes=1, chunk_bytes=50_000, pipelined=True)
        self.book = OrderBook()
        self.took: asyncio.Queue[tuple[int, Vector]] = asyncio.Queue()
        self.failed: asyncio.Queue[FlockstepError] = asyncio.Queue()
        connection = Connection(stub, b"token", "a", run)
        self.steps = Steps(
            connection,
            LAYOUT,
            Memory(),
            self.book,
            lambda version, vector: self.took.put_nowait((version, vector)),
            self.failed.put_nowait,
        )

    def send(self, step: int, seed: int = 0, part: str = "own") -> StreamedUpdate:
        """Answer an order of round 1, all at once."""
        update, post = self.steps.begin(order(step), part, np.zeros(LAYOUT.total, np.float32))
        update.said.MergeFrom(leader_pb2.UpdateHeader(work_id=update.order.work_id, examples=4, loss=0.5))
        post(None)
        values = vector_of(seed)
        for piece in reversed(FILES.pieces):
            file = FILES.plain(piece.number, values[piece.start : piece.stop], {})
            messages = tuple(frames(file.header, file.body.data, 50_000))
            post(SentPiece(piece.number, file.total_bytes, file.crc32, messages))
        return update


def order(step: int) -> leader_pb2.WorkOrder:
    return leader_pb2.WorkOrder(
        work_id=f"1-{step}-x", round=1, step=step, version=step, exchange="gradient", local_steps=1
    )


def vector_of(seed: int) -> Vector:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=LAYOUT.total).astype(np.float32)


@asynccontextmanager
async def against(play: Handler) -> AsyncIterator[Learner]:
    """A learner whose leader plays `play` on each stream."""

    refused: list[tuple[grpc.StatusCode, str]] = []

    async def exchange(messages: AsyncIterator[bytes], context: Any) -> None:
        await play(Line(messages, context, refused))

    async def get_upload(request: bytes, context: Any) -> bytes:
        if refused:
            await context.abort(*refused.pop())
        return b""

    server = aio.server(options=server_options())
    handler = grpc.stream_stream_rpc_method_handler(exchange, raw, raw)
    asked = grpc.unary_unary_rpc_method_handler(get_upload, raw, raw)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ExchangeGradients": handler, "GetUpload": asked}),)
    )
    async with started(server) as at, aio.insecure_channel(at, options=channel_options()) as channel:
        learner = Learner(LeaderStub(channel))
        try:
            yield learner
        finally:
            learner.steps.close()


async def soon(queue: asyncio.Queue[Any]) -> Any:
    return await asyncio.wait_for(queue.get(), TIMEOUT_S)


def test_two_steps_go_over_one_stream() -> None:
    streams = 0

    async def play(line: Line) -> None:
        nonlocal streams
        streams += 1
        for step in range(2):
            assert await line.update() == [(number, 0) for number in reversed(range(COUNT))]
            await line.weights(vector_of(10 + step))
            counted = [f"1-{step}-x"]
            await line.say(stepped=leader_pb2.Stepped(round=1, step=step, version=step + 1, counted=counted))
        assert {header.work_id for header in line.headers} == {"1-0-x", "1-1-x"}
        assert {header.token for header in line.headers} == {b"token"}

    async def scenario() -> None:
        async with against(play) as learner:
            for step in range(2):
                update = learner.send(step)
                await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
                version, vector = await soon(learner.took)
                assert version == step + 1
                assert vector.tobytes() == vector_of(10 + step).tobytes()
                assert update.counted is True

    asyncio.run(scenario())
    assert streams == 1


def test_a_step_that_begins_anew_gets_the_pieces_again_and_voids_the_weights() -> None:
    async def play(line: Line) -> None:
        await line.update()
        await line.weights(vector_of(9), range(1))
        await line.say(redo=leader_pb2.Redo(round=1, step=0, attempt=1))
        assert await line.update() == [(number, 1) for number in reversed(range(COUNT))]
        await line.weights(vector_of(10))
        await line.say(stepped=leader_pb2.Stepped(round=1, step=0, version=1, counted=["1-0-x"]))

    async def scenario() -> None:
        async with against(play) as learner:
            learner.send(0)
            _, vector = await soon(learner.took)
            assert vector.tobytes() == vector_of(10).tobytes()

    asyncio.run(scenario())


@pytest.mark.parametrize(("version", "slices"), [(0, COUNT), (1, COUNT - 1)])
def test_weights_that_are_not_all_here_are_not_taken(version: int, slices: int) -> None:
    async def play(line: Line) -> None:
        await line.update()
        await line.weights(vector_of(10), range(slices))
        await line.say(stepped=leader_pb2.Stepped(round=1, step=0, version=version))

    async def scenario() -> None:
        async with against(play) as learner:
            update = learner.send(0)
            await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
            assert learner.took.empty()
            assert update.counted is False

    asyncio.run(scenario())


def test_an_update_is_sent_again_over_a_new_stream_and_not_twice_over_one() -> None:
    streams: list[list[tuple[int, int]]] = []

    async def play(line: Line) -> None:
        streams.append(await line.update())
        if len(streams) == 2:
            await line.say(stepped=leader_pb2.Stepped(round=1, step=0, version=1, counted=["1-0-x"]))
            assert await line.update()  # of step 1, not that of step 0 once more

    async def scenario() -> None:
        async with against(play) as learner:
            learner.send(0)
            await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)  # the stream was closed
            assert learner.steps.send_again(order(0))
            assert learner.steps.send_again(order(0))
            assert not learner.steps.send_again(order(1))
            await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
            learner.send(1)
            await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)

    asyncio.run(scenario())
    assert len(streams) == 2


@pytest.mark.parametrize("order_first", [True, False])
def test_work_that_is_given_up_and_tried_again_is_sent_again_whichever_is_heard_first(
    order_first: bool,
) -> None:
    sent, told = asyncio.Event(), asyncio.Event()

    async def play(line: Line) -> None:
        await line.update()
        sent.set()
        if order_first:
            await told.wait()
        await line.say(stepped=leader_pb2.Stepped(round=1, step=0))
        assert len(await line.update()) == COUNT
        # Each try begins with the header: by that the leader knows whom to tell of its end.
        assert {header.work_id for header in line.headers} == {"1-0-x"}
        assert len(line.headers) >= 2
        await line.say(stepped=leader_pb2.Stepped(round=1, step=0, version=1, counted=["1-0-x"]))

    async def scenario() -> None:
        async with against(play) as learner:
            update = learner.send(0)
            await asyncio.wait_for(sent.wait(), TIMEOUT_S)
            if not order_first:
                await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
                assert update.counted is False
            assert learner.steps.send_again(order(0))
            told.set()
            await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
            assert update.counted is True

    asyncio.run(scenario())


def test_an_answer_about_an_old_update_leaves_the_weights_that_come() -> None:
    async def play(line: Line) -> None:
        await line.update()
        await line.weights(vector_of(10), range(2))
        await line.say(stepped=leader_pb2.Stepped(round=1, step=0))
        await line.weights(vector_of(10), range(2, COUNT))
        await line.say(stepped=leader_pb2.Stepped(round=1, step=1, version=2, counted=["1-1-x"]))

    async def scenario() -> None:
        async with against(play) as learner:
            learner.send(1)
            version, vector = await soon(learner.took)
            assert version == 2
            assert vector.tobytes() == vector_of(10).tobytes()

    asyncio.run(scenario())


@pytest.mark.parametrize("pieces", [1, COUNT])
def test_what_the_leader_refuses_a_stream_with_is_told(pieces: int) -> None:
    async def play(line: Line) -> None:
        for _ in range(pieces):
            await line.piece()
        await line.refuse(grpc.StatusCode.OUT_OF_RANGE, "values from nan to nan")

    async def scenario() -> None:
        for _ in range(10):
            async with against(play) as learner:
                learner.send(0)
                error = await soon(learner.failed)
                assert isinstance(error, ValueRangeError)
                assert str(error) == "values from nan to nan"

    asyncio.run(scenario())


def test_a_leader_that_is_gone_is_told() -> None:
    async def scenario() -> None:
        channel = aio.insecure_channel("127.0.0.1:1", options=channel_options())
        learner = Learner(LeaderStub(channel))
        learner.send(0)
        assert isinstance(await soon(learner.failed), UnreachableError)
        await asyncio.wait_for(learner.steps.over(), TIMEOUT_S)
        learner.steps.close()
        await channel.close()

    asyncio.run(scenario())
