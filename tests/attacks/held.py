"""Attackers that a leader has withstood from the beginning: noise, guesses, bombs and silence."""

from __future__ import annotations

import asyncio
import gzip
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from protos import leader_pb2
from tests.attacks.raw_http2 import RawConnection, Reply, framed
from tests.attacks.siege import Victim
from tests.strangers import Stranger
from utils.version import PROTOCOL

METHODS = ("RegisterLearner", "GetModel", "GetData", "AccumulateGradients", "Session", "GetWork", "GetUpload")
_BOMB_BYTES = 256 << 20  # what is sent is a thousandth of it
#: Begins with the only bytes that get past the HTTP/2 preface, or with none of them.
_GARBAGE = (b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01")


async def malformed(victim: Victim) -> list[Reply]:
    """A message of noise for every method; how each was answered."""
    async with RawConnection(victim.address, victim.held) as connection:
        return [await connection.ask(method, b"\xff" + secrets.token_bytes(1000)) for method in METHODS]


async def guessed(victim: Victim) -> list[Reply]:
    """Calls in the name of a registration that there is not; how each was answered."""
    token = secrets.token_bytes(16)
    async with RawConnection(victim.address, victim.held) as connection:
        return [
            await connection.ask("GetModel", leader_pb2.Empty(token=token)),
            await connection.ask("GetData", leader_pb2.LearnerDataRequest(token=token, shard=0)),
            await connection.ask("GetWork", leader_pb2.WorkRequest(token=token)),
            await connection.ask("GetUpload", leader_pb2.UploadRequest(token=token, work_id="1")),
            await connection.ask("Session", leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=token))),
            await connection.ask(
                "AccumulateGradients",
                leader_pb2.GradientData(
                    header=leader_pb2.UpdateHeader(token=token, work_id="1", total_bytes=9)
                ),
            ),
        ]


async def bomb(victim: Victim, method: str = "AccumulateGradients", inflated: int = _BOMB_BYTES) -> Reply:
    """A gRPC message that is small until gRPC itself inflates it; how it was answered."""
    small = await asyncio.to_thread(_bomb, inflated)
    async with RawConnection(victim.address, victim.held) as connection:
        stream = connection.open(method, more=(("grpc-encoding", "gzip"),))
        await connection.send(stream, struct.pack(">BI", 1, len(small)) + small, end=True)
        await connection.replies[stream].ended.wait()
        return connection.replies[stream]


@cache
def _bomb(inflated: int) -> bytes:
    """Zeros as the chunk of an update, by gzip."""
    return gzip.compress(leader_pb2.GradientData(chunk=bytes(inflated)).SerializeToString(), 1)


async def garbage(victim: Victim) -> None:
    """Bytes that are no HTTP/2, over a connection for each kind, until the leader hangs up."""
    host, _, port = victim.address.rpartition(":")

    async def send(beginning: bytes) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(beginning + secrets.token_bytes(10_000))
            while await reader.read(1 << 16):
                pass
        finally:
            writer.transport.abort()

    await asyncio.gather(*(send(beginning) for beginning in _GARBAGE), return_exceptions=True)


async def silent_sessions(victim: Victim, count: int = 30) -> list[int]:
    """Sessions that say no hello, on one connection; the status that each was ended with."""
    async with Stranger(victim.address, victim.held) as stranger:
        sessions = [stranger.stub.Session() for _ in range(count)]
        return [(await session.code()).value[0] for session in sessions]


@asynccontextmanager
async def unread_downloads(victim: Victim, count: int) -> AsyncIterator[None]:
    """Ask for the model so many times, read nothing of it, and be gone after the block."""
    async with RawConnection(victim.address, victim.held, window=10, grants=False) as connection:
        for _ in range(count):
            stream = connection.open("GetModel")
            await connection.send(stream, framed(leader_pb2.Empty()), end=True)
        yield


async def replays(victim: Victim, name: str = "replayer") -> Reply:
    """A registration that was seen on its way, sent once more; how the second was answered."""
    info = framed(leader_pb2.LearnerInfo(protocol=PROTOCOL, name=name, control=leader_pb2.CONTROL_SESSION))
    async with RawConnection(victim.address, victim.held) as first:
        await first.ask("RegisterLearner", info[5:])
        async with RawConnection(victim.address, victim.held) as second:
            return await second.ask("RegisterLearner", info[5:])
