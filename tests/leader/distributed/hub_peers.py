"""Those around a hub, played by a test message by message: whoever is above it, and edges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np

from leader.distributed.contract import VERSION
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hooks, Hub
from leader.distributed.messages import members_digest
from leader.distributed.sum_slices import packed
from protos import edge_pb2
from utils.errors import (
    WireError,
)

SUM = np.arange(16, dtype=np.uint8)


def uid(number: int) -> bytes:
    return bytes([number]) * 16


class Leader:
    """Whoever is above the hub: counts what it is told to, and notes what it hears."""

    def __init__(self, silent_s: float = 30.0, sum_s: float = 30.0) -> None:
        self.refuses: dict[bytes, WireError] = {}
        self.heard: list[bytes] = []
        self.held = asyncio.Event()
        self.held.set()
        self.lost: list[set[bytes]] = []
        self.taken: list[Partial] = []
        self.serving: list[int] = []  # edges, whenever one comes or goes
        hooks = Hooks(lost=self._lose, serves=self._note_serving, left=self._note_serving)
        self.hub = Hub(self._welcome, self._submit, silent_s=silent_s, sum_s=sum_s, hooks=hooks)

    def _note_serving(self, *told: object) -> None:
        self.serving.append(self.hub.serving)

    def _lose(self, uids: frozenset[bytes]) -> None:
        self.lost.append(set(uids))

    def _welcome(self) -> edge_pb2.Welcome:
        return edge_pb2.Welcome(run_id="r")

    async def _submit(self, receipt: edge_pb2.Receipt) -> None:
        self.heard.append(receipt.uid)
        await self.held.wait()
        if error := self.refuses.get(receipt.uid):
            raise error

    async def take(self, partial: Partial) -> None:
        self.taken.append(partial)


class Edge:
    """An edge, its two directions, and what becomes of its stream."""

    def __init__(self, hub: Hub, name: str = "e", hello: bool = True) -> None:
        self._hub = hub
        self._up: asyncio.Queue[edge_pb2.EdgeUp | None] = asyncio.Queue()
        self._down: asyncio.Queue[edge_pb2.EdgeDown] = asyncio.Queue()
        if hello:
            self.say(hello=edge_pb2.EdgeHello(protocol=VERSION, name=name))
        self.stream = asyncio.ensure_future(hub.join(self._messages(), self._down.put))
        self.token = b""

    async def _messages(self) -> AsyncIterator[edge_pb2.EdgeUp]:
        while (message := await self._up.get()) is not None:
            yield message

    def say(self, **kind: Any) -> None:
        self._up.put_nowait(edge_pb2.EdgeUp(**kind))

    def hang_up(self) -> None:
        self._up.put_nowait(None)

    async def hear(self, kind: str) -> Any:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(20):
            message = await self._down.get()
        assert message.WhichOneof("kind") == kind
        return getattr(message, kind)

    async def joined(self) -> Edge:
        self.token = (await self.hear("welcome")).token
        return self

    async def counts(self, *numbers: int) -> None:
        """Hand updates in, and hear that they count."""
        for number in numbers:
            self.say(receipt=edge_pb2.Receipt(uid=uid(number)))
            assert (await self.hear("verdict")) == edge_pb2.Verdict(uid=uid(number))

    async def put(
        self,
        close: edge_pb2.Close,
        data: bytes = SUM.tobytes(),
        damage: int = 0,
        rest: asyncio.Event | None = None,
        **change: Any,
    ) -> None:
        """Bring a sum, its second half not before `rest` is set."""
        header = edge_pb2.SumHeader(
            token=self.token,
            sum=close.sum,
            attempt=close.attempt,
            members=members_digest(close.uids),
            weights=[3],
            total_bytes=len(data),
        )
        for name, value in change.items():
            setattr(header, name, value)
        whole = np.frombuffer(data, np.uint8)
        first = packed(whole[:8], 0)
        chunks = [edge_pb2.SumChunk(header=header), first, packed(whole[8:], first.crc32 ^ damage)]

        async def stream() -> AsyncIterator[edge_pb2.SumChunk]:
            for number, chunk in enumerate(chunks):
                if number == 2 and rest is not None:
                    await rest.wait()
                yield chunk

        await self._hub.put(stream())


Story = Callable[[Leader], Coroutine[Any, Any, None]]


def play(story: Story, **times: float) -> None:
    async def whole() -> None:
        leader = Leader(**times)
        await story(leader)

    asyncio.run(whole())


async def opened(leader: Leader, count: int = 1) -> list[Edge]:
    edges = [await Edge(leader.hub, f"e{number}").joined() for number in range(count)]
    leader.hub.open(edge_pb2.Open(round=1), SUM.size)
    for edge in edges:
        assert (await edge.hear("open")).round == 1
    return edges
