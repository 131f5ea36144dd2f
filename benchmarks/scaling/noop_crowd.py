"""`python -m benchmarks.scaling.noop_crowd`: many learners in one process without torch, whose training takes no time.

Each has connections of its own, fetches the model of each order and drops it chunk by chunk, and
answers with one and the same update, which is built once; both at an edge, where orders name any.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from grpc import aio

from benchmarks.probe import Probe
from learner.wire.connection import Endpoint
from learner.wire.edges import Edges
from protos import leader_pb2
from utils.errors import BusyError
from utils.version import PROTOCOL
from utils.wire.checksum import crc32
from utils.wire.contract import LeaderStub
from utils.wire.framing import frames
from utils.wire.payload import Manifest, encode_header, parse_header
from utils.wire.rpc import channel_options
from utils.wire.status import failures_told

EXAMPLES, CLASSES = 64, 10  # of the data that each learner says it holds
_VALUE = np.float32(1e-4)
_AT_ONCE = 16  # registrations, or updates, that a process has under way
_PAUSE_S = 1.0
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ConstantUpdate:
    """An update as it travels, for all learners and rounds: the same value everywhere."""

    messages: tuple[bytes, ...]  # framed GradientData messages
    total_bytes: int
    crc32: int

    @classmethod
    def of(cls, model: Manifest, exchange: str, chunk_bytes: int) -> ConstantUpdate:
        """The update for a model with these tensors."""
        header = encode_header(
            ((tensor.name, tensor.dtype, tensor.shape) for tensor in model.tensors),
            {"codec": "none", "exchange": exchange},
        )
        body = np.full(model.data_bytes // 4, _VALUE, np.float32).data.cast("B")
        return cls(
            tuple(frames(header, body, chunk_bytes)),
            len(header) + len(body),
            crc32(body, crc32(header)),
        )


class Crowd:
    """What all learners share: the update, and the readings of their process."""

    def __init__(self, first: int) -> None:
        self.first = first  # number of the learner that takes readings
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self.probe = Probe()
        self._update: ConstantUpdate | None = None

    def update(self, head: bytes, exchange: str, chunk_bytes: int) -> ConstantUpdate:
        """The update for the model whose file begins with `head`; built for the first who asks."""
        if self._update is None:
            size = 8 + int.from_bytes(head[:8], "little")
            self._update = ConstantUpdate.of(parse_header(head[:size]), exchange, chunk_bytes)
        return self._update


class NoOpMember:
    """One learner of the crowd."""

    def __init__(self, leader: str, number: int, crowd: Crowd) -> None:
        # Without its own pool gRPC would put all learners of this process on one connection.
        options = (*channel_options(), ("grpc.use_local_subchannel_pool", 1))
        self._channel = aio.insecure_channel(leader, options=options)
        self._edges = Edges(lambda address: aio.insecure_channel(address, options=options))
        self._stub = LeaderStub(self._channel)
        self._number = number
        self._crowd = crowd

    async def learn(self) -> None:
        """Register and answer orders until the leader says stop; raises RuntimeError if it hangs up before."""
        info = leader_pb2.LearnerInfo(
            protocol=PROTOCOL,
            name=f"noop-{self._number}",
            control=leader_pb2.CONTROL_SESSION,
            own_data=leader_pb2.OwnData(
                examples=EXAMPLES, classes=CLASSES, fingerprint=f"{self._number:064x}"
            ),
        )
        async with self._crowd.turn:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._channel.channel_ready()  # the leader was started a moment ago
            reply = await self._stub.register(info, _TIMEOUT_S)
        self._edges.registered(info.name)
        async for message in self._stub.session(self._speak(reply)):
            match message.WhichOneof("kind"):
                case "work":
                    await self._answer(message.work, reply)
                case "stop":
                    return
        raise RuntimeError(f"the leader ended the session of learner {self._number} without a word")

    async def _speak(self, reply: leader_pb2.AckWithMetadata) -> AsyncIterator[leader_pb2.LearnerMessage]:
        yield leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=reply.token))
        while True:
            await asyncio.sleep(reply.run.heartbeat_s)
            yield leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat())

    async def _answer(self, order: leader_pb2.WorkOrder, reply: leader_pb2.AckWithMetadata) -> None:
        if self._number == self._crowd.first:
            self._crowd.probe.read()
        leader = Endpoint(self._stub, reply.token)
        while True:
            try:
                async with self._crowd.turn:
                    await self._edges.ask(
                        self._turned(order.via), lambda: leader, lambda at: self._learn_at(at, order, reply)
                    )
                return
            except (
                BusyError
            ) as busy:  # others have its place; among thousands in one process it may have been slow
                await asyncio.sleep(busy.retry_after_s or _PAUSE_S)

    def _turned(self, via: leader_pb2.Via) -> leader_pb2.Via:
        """One edge, each in its turn: by their names, few learners might all choose the same."""
        edges = sorted(via.edges)
        return leader_pb2.Via(ticket=via.ticket, edges=edges[self._number % max(1, len(edges)) :][:1])

    async def _learn_at(
        self, at: Endpoint, order: leader_pb2.WorkOrder, reply: leader_pb2.AckWithMetadata
    ) -> None:
        request = leader_pb2.Empty(token=at.token, ticket=at.ticket, version=order.version)
        with failures_told():
            head = await self._fetch(at.stub, request)
        update = self._crowd.update(head, order.exchange, reply.run.chunk_bytes)
        said = leader_pb2.UpdateHeader(
            token=at.token,
            ticket=at.ticket,
            work_id=order.work_id,
            examples=EXAMPLES,
            total_bytes=update.total_bytes,
            crc32=update.crc32,
            loss=1.0,
            seconds=1e-6,
        )
        header = leader_pb2.GradientData(header=said).SerializeToString()
        with failures_told():
            await at.stub.accumulate(iter((header, *update.messages)))

    async def _fetch(self, stub: LeaderStub, request: leader_pb2.Empty) -> bytes:
        """The first chunk of the model, which holds its header; the others are dropped."""
        chunks = stub.get_model(request)
        head = bytes(await anext(chunks))
        async for _ in chunks:
            pass
        return head

    async def close(self) -> None:
        """Hang up."""
        await self._edges.close()
        await self._channel.close()


async def learn_together(leader: str, numbers: range, crowd: Crowd) -> None:
    """Run the learners to the end."""
    members = [NoOpMember(leader, number, crowd) for number in numbers]
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(member.learn())
    await asyncio.gather(*(member.close() for member in members))


def main() -> None:
    """Parse the command line, run the crowd and leave the readings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.noop_crowd", description=__doc__)
    parser.add_argument("--leader", required=True, metavar="HOST:PORT")
    parser.add_argument("--learners", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="of these learners in the run")
    options = parser.parse_args()
    crowd = Crowd(options.first)
    numbers = range(options.first, options.first + options.learners)
    asyncio.run(learn_together(options.leader, numbers, crowd))
    crowd.probe.write()


if __name__ == "__main__":
    main()
