"""`python -m benchmarks.noop_crowd`: many learners in one process without torch, whose training takes no time.

Each has a connection of its own, fetches the model of each order and drops it chunk by chunk, and
answers with one and the same update, which is built once. At the end the crowd prints as one JSON
object what the kernel counted on its connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import numpy as np
from grpc import aio

from benchmarks.probe import Probe
from benchmarks.tcp_bytes import TcpBytes
from protos import leader_pb2
from utils.version import PROTOCOL
from utils.wire.checksum import crc32
from utils.wire.contract import LeaderStub
from utils.wire.framing import frames
from utils.wire.payload import Manifest, encode_header, parse_header
from utils.wire.rpc import channel_options

EXAMPLES, CLASSES = 64, 10  # of the data that each learner says it holds
_VALUE = np.float32(1e-4)
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

    def __init__(self) -> None:
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
        async with asyncio.timeout(_TIMEOUT_S):
            await self._channel.channel_ready()  # the leader was started a moment ago
        reply = await self._stub.register(info, _TIMEOUT_S)
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
        if self._number == 0:
            self._crowd.probe.read()
        head = await self._fetch(leader_pb2.Empty(token=reply.token, version=order.version))
        update = self._crowd.update(head, order.exchange, reply.run.chunk_bytes)
        said = leader_pb2.UpdateHeader(
            token=reply.token,
            work_id=order.work_id,
            examples=EXAMPLES,
            total_bytes=update.total_bytes,
            crc32=update.crc32,
            loss=1.0,
            seconds=1e-6,
        )
        header = leader_pb2.GradientData(header=said).SerializeToString()
        await self._stub.accumulate(iter((header, *update.messages)))

    async def _fetch(self, request: leader_pb2.Empty) -> bytes:
        """The first chunk of the model, which holds its header; the others are dropped."""
        chunks = self._stub.get_model(request)
        head = bytes(await anext(chunks))
        async for _ in chunks:
            pass
        return head

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


async def learn_together(leader: str, learners: int, crowd: Crowd) -> TcpBytes:
    """Run the learners to the end; returns what went over their connections."""
    members = [NoOpMember(leader, number, crowd) for number in range(learners)]
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(member.learn())
    counted = TcpBytes.now()
    await asyncio.gather(*(member.close() for member in members))
    return counted


def main() -> None:
    """Parse the command line, run the crowd and leave the readings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noop_crowd", description=__doc__)
    parser.add_argument("--leader", required=True, metavar="HOST:PORT")
    parser.add_argument("--learners", type=int, required=True)
    options = parser.parse_args()
    crowd = Crowd()
    counted = asyncio.run(learn_together(options.leader, options.learners, crowd))
    crowd.probe.write()
    json.dump(asdict(counted), sys.stdout)


if __name__ == "__main__":
    main()
