"""Attackers that take more than anybody's share: of streams, of connections, of messages and of names."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from protos import leader_pb2
from tests.attacks.raw_http2 import RawConnection, framed
from tests.attacks.siege import Victim
from utils.version import PROTOCOL

_HEARTBEAT = leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat())


async def mute_calls(victim: Victim, count: int, until: asyncio.Event | None = None) -> None:
    """Send the headers of so many calls over one connection, whatever it permits; hold it `until` then, or its end."""
    async with RawConnection(victim.address, victim.held) as connection:
        await connection.settings.wait()
        for at in range(count):
            connection.open("Session")
            if at % 32 == 31:
                await asyncio.sleep(0)
        await (until or connection.ended).wait()


async def rapid_resets(victim: Victim, count: int = 1 << 30) -> int:
    """Open and reset streams over one connection until that is ended; how many were sent."""
    async with RawConnection(victim.address, victim.held) as connection:
        return await connection.open_and_reset("Session", count)


async def resets(victim: Victim, method: str = "Session") -> None:
    """Open streams and reset them once they have come, until the connection is ended."""
    async with RawConnection(victim.address, victim.held) as connection:
        await connection.settings.wait()
        pause_s = 0.005  # a busy leader takes longer: gRPC alone sees those that are reset before
        while not connection.ended.is_set():
            streams = [connection.open(method) for _ in range(16)]
            await asyncio.sleep(pause_s)
            pause_s = min(1.2 * pause_s, 0.1)
            for stream in streams:
                connection.reset(stream)


async def idle_connection(victim: Victim) -> None:
    """Connect, speak TLS where the leader does, and say nothing until that is ended."""
    async with RawConnection(victim.address, victim.held) as connection:
        await connection.ended.wait()


async def silent_connection(victim: Victim) -> None:
    """Connect and say nothing at all until that is ended."""
    host, _, port = victim.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError):
        await reader.read()
    writer.close()


async def chatter(victim: Victim, count: int, message: leader_pb2.LearnerMessage = _HEARTBEAT) -> None:
    """Say the same so many times over one session, or until that is ended."""
    async with RawConnection(victim.address, victim.held) as connection:
        stream = connection.open("Session")
        await connection.send(stream, framed(_hello(await _token(connection))))
        for _ in range(0, count, 1000):
            await connection.send(stream, framed(message) * 1000)
        goodbye = leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason="all is said"))
        await connection.send(stream, framed(goodbye), end=True)
        await connection.replies[stream].ended.wait()


async def passing(victim: Victim) -> None:
    """Register, under a new name in a plain run, open the session and say goodbye."""
    async with RawConnection(victim.address, victim.held) as connection:
        goodbye = leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason="gone"))
        said = (_hello(await _token(connection)), goodbye)
        stream = connection.open("Session")
        await connection.send(stream, b"".join(map(framed, said)), end=True)
        await connection.replies[stream].ended.wait()


async def _token(connection: RawConnection) -> bytes:
    """Of a new learner, which brings data where the leader has none."""
    info = leader_pb2.LearnerInfo(protocol=PROTOCOL, control=leader_pb2.CONTROL_SESSION)
    reply = await connection.ask("RegisterLearner", info)
    if reply.status != 0:
        info.own_data.MergeFrom(leader_pb2.OwnData(examples=24, classes=2, fingerprint="f"))
        reply = await connection.ask("RegisterLearner", info)
    if reply.status != 0:
        raise EOFError(reply.details)
    return leader_pb2.AckWithMetadata.FromString(bytes(reply.body[5:])).token


def _hello(token: bytes) -> leader_pb2.LearnerMessage:
    return leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=token))
