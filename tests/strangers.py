"""A client that speaks the contract by hand and says what no learner would: attackers of a running leader."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from grpc import aio

from model.layout import Layout
from protos import leader_pb2, leader_pb2_grpc
from tests.clusters import TIMEOUT_S
from tests.leader.trust.fleet import ALONE, connect
from utils.trust.credentials import Credentials
from utils.version import PROTOCOL
from utils.wire.payload import encode_header

CHUNK_BYTES = 1 << 20


def update_of(layout: Layout, value: float) -> bytes:
    """An update, all of one value, as a safetensors file."""
    header = encode_header((entry.name, "F32", entry.shape) for entry in layout.entries)
    return header + np.full(layout.total, value, np.float32).tobytes()


class Stranger:
    """One client with a connection of its own, encrypted if it holds anything; entered and left with `async with`."""

    def __init__(self, address: str, held: Credentials | None = None) -> None:
        self._channel = connect(address, held) if held else aio.insecure_channel(address, ALONE)
        self.stub = leader_pb2_grpc.LeaderServiceStub(self._channel)
        self.token = b""
        self._up: asyncio.Queue[leader_pb2.LearnerMessage | None] = asyncio.Queue()
        self._session: Any = None
        self._unread: list[leader_pb2.LeaderMessage] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Break the connection, without a goodbye."""
        self._up.put_nowait(None)
        await self._channel.close()

    async def register(self, name: str = "", **said: Any) -> leader_pb2.AckWithMetadata:
        """Register as a full learner unless `said` tells otherwise; the token of the answer is kept."""
        fields = {"protocol": PROTOCOL, "control": leader_pb2.CONTROL_SESSION, "name": name, **said}
        reply = await self.stub.RegisterLearner(leader_pb2.LearnerInfo(**fields), timeout=TIMEOUT_S)
        self.token = reply.token
        return cast(leader_pb2.AckWithMetadata, reply)

    async def open_session(self) -> None:
        """Open the session and say hello."""
        self.say(hello=leader_pb2.Hello(token=self.token))
        self._session = self.stub.Session(self._messages())

    async def _messages(self) -> AsyncIterator[leader_pb2.LearnerMessage]:
        while (message := await self._up.get()) is not None:
            yield message

    def say(self, **message: Any) -> None:
        """Send a message over the session."""
        self._up.put_nowait(leader_pb2.LearnerMessage(**message))

    async def work(self) -> leader_pb2.WorkOrder:
        """The next work order that the leader sends over the session."""
        return cast(leader_pb2.WorkOrder, await self.told("work"))

    async def told(self, kind: str) -> Any:
        """What the next message of this kind over the session says; others stay to be asked for."""
        async with asyncio.timeout(TIMEOUT_S):
            while not (found := [one for one in self._unread if one.WhichOneof("kind") == kind]):
                message = await self._session.read()
                assert message is not aio.EOF, "the session has ended"
                self._unread.append(message)
        self._unread.remove(found[0])
        return getattr(found[0], kind)

    async def ended(self) -> None:
        """Wait until the leader ends the session."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self._session.read() is not aio.EOF:
                pass

    async def model(self, version: int | None = None) -> int:
        """Bytes of the model, fetched with the token if there is one."""
        asked = leader_pb2.Empty(token=self.token, version=version)
        chunks = self.stub.GetModel(asked, timeout=TIMEOUT_S)
        return sum([len(chunk.chunk) async for chunk in chunks])

    async def send(self, file: bytes, work_id: str = "", examples: int = 1, **said: Any) -> leader_pb2.Ack:
        """Send an update; without a work id as a plain learner does. `said` is what its header says beside that."""

        def messages() -> list[leader_pb2.GradientData]:
            chunks = [file[at : at + CHUNK_BYTES] for at in range(0, len(file), CHUNK_BYTES)]
            fields = {"total_bytes": len(file), "crc32": zlib.crc32(file), "loss": 0.5, **said}
            first = leader_pb2.UpdateHeader(token=self.token, work_id=work_id, examples=examples, **fields)
            head = [leader_pb2.GradientData(header=first)] if work_id else []
            return [*head, *(leader_pb2.GradientData(chunk=chunk) for chunk in chunks)]

        counted = await self.stub.AccumulateGradients(iter(messages()), timeout=TIMEOUT_S)
        return cast(leader_pb2.Ack, counted)


@asynccontextmanager
async def at_work(
    address: str, name: str, held: Credentials | None = None, **said: Any
) -> AsyncIterator[Stranger]:
    """A client that has registered and opened its session."""
    async with Stranger(address, held) as stranger:
        await stranger.register(name, **said)
        await stranger.open_session()
        yield stranger
