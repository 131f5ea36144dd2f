"""`python -m benchmarks.endurance.crowd`: many sessions in one process, each with a connection of its own
(and with --trust an identity).

Says `open` on standard output when all are there; when its standard input closes it prints the
wall-clock times at which work orders were heard, as one JSON list, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from grpc import aio

from benchmarks.trust_folder import InTheClear, choose_way, own_channel
from protos import leader_pb2
from utils.version import PROTOCOL
from utils.wire.contract import LeaderStub
from utils.wire.rpc import channel_options

_AT_ONCE = 16  # registrations under way
_TIMEOUT_S = 60.0


class Member:
    """One learner that only listens."""

    def __init__(self, channel: aio.Channel, heard: list[float]) -> None:
        self._channel = channel
        self._heard = heard

    async def open(self) -> asyncio.Task[None]:
        """Register and open the session; the task listens until it is cancelled."""
        stub = LeaderStub(self._channel)
        info = leader_pb2.LearnerInfo(protocol=PROTOCOL, control=leader_pb2.CONTROL_SESSION)
        reply = await stub.register(info, _TIMEOUT_S)
        return asyncio.create_task(self._listen(stub, reply))

    async def _listen(self, stub: LeaderStub, reply: leader_pb2.AckWithMetadata) -> None:
        async for message in stub.session(self._speak(reply)):
            if message.WhichOneof("kind") == "work":
                self._heard.append(time.time())

    async def _speak(self, reply: leader_pb2.AckWithMetadata) -> AsyncIterator[leader_pb2.LearnerMessage]:
        yield leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=reply.token))
        while True:
            await asyncio.sleep(reply.run.heartbeat_s)
            yield leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat())

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


async def crowd(leader: str, sessions: int, way: InTheClear) -> None:
    """Open the sessions, listen until standard input closes, and tell what was heard."""
    heard: list[float] = []
    identities = [way.admit(f"crowd-{os.getpid()}-{number}") for number in range(sessions)]
    members = [Member(own_channel(leader, own, channel_options()), heard) for own in identities]
    turn = asyncio.Semaphore(_AT_ONCE)

    async def open_one(member: Member) -> asyncio.Task[None]:
        async with turn:
            return await member.open()

    listening = await asyncio.gather(*(open_one(member) for member in members))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(heard), flush=True)
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    await asyncio.gather(*(member.close() for member in members))


def main() -> None:
    """Parse the command line and run the crowd."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.crowd", description=__doc__)
    parser.add_argument("--leader", required=True, metavar="HOST:PORT")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--trust", type=Path, metavar="DIR", help="the leader's folder of trust")
    options = parser.parse_args()
    asyncio.run(crowd(options.leader, options.sessions, choose_way(options.trust)))


if __name__ == "__main__":
    main()
