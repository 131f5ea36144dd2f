"""Attackers of what moves data: uploads and downloads that are begun and go on slowly, by half or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from protos import leader_pb2
from tests.attacks.raw_http2 import RawConnection, framed, half
from tests.attacks.siege import REFUSED, Attacker, Victim
from utils.version import PROTOCOL

STREAMS = 16  # of each connection: as many as a leader lets a caller have
_MESSAGE_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20


async def _each(
    victim: Victim, count: int, one: Callable[[RawConnection], Awaitable[None]], streams: int = STREAMS
) -> None:
    """Do something on `count` streams, so many a connection, and hold the connections until cancelled."""

    async def on_one(number: int) -> None:
        async with RawConnection(victim.address, victim.held, window=1 << 16, grants=False) as connection:
            await asyncio.gather(*(one(connection) for _ in range(number)), return_exceptions=True)
            await connection.ended.wait()

    numbers = [min(streams, count - begun) for begun in range(0, count, streams)]
    await asyncio.gather(*(on_one(number) for number in numbers), return_exceptions=True)


async def registered(
    connection: RawConnection, name: str, control: int = leader_pb2.CONTROL_SESSION
) -> bytes:
    """Register as a learner that brings nothing; the token."""
    info = leader_pb2.LearnerInfo(protocol=PROTOCOL, name=name, control=control)  # type: ignore[arg-type]
    stream = connection.open("RegisterLearner")
    await connection.send(stream, framed(info), end=True)
    reply = connection.replies[stream]
    await reply.ended.wait()
    return leader_pb2.AckWithMetadata.FromString(bytes(reply.body[5:])).token if reply.status == 0 else b""


async def mute_uploads(victim: Victim, count: int = 150, size: int = _MESSAGE_BYTES - 64) -> None:
    """Plain learners, a connection each, whose uploads begin with a large message and are silent then."""
    message = framed(leader_pb2.GradientData(chunk=secrets.token_bytes(size)))

    async def one(connection: RawConnection) -> None:
        await registered(connection, "", leader_pb2.CONTROL_PLAIN)
        await connection.send(connection.open("AccumulateGradients"), message)

    await _each(victim, count, one, streams=1)


async def half_messages(
    victim: Victim, count: int = 100, method: str = "AccumulateGradients", size: int = _MESSAGE_BYTES - 64
) -> None:
    """Messages of which half has come, and no more ever does; a connection each."""
    message = half(size, secrets.token_bytes(size * 15 // 16))

    async def one(connection: RawConnection) -> None:
        await connection.send(connection.open(method), message)

    await _each(victim, count, one, streams=1)


async def unread_downloads(victim: Victim, count: int = 600, *, trickle_bytes: int = 0) -> None:
    """Downloads of the model that nobody reads, or so many bytes of a second."""

    async def one(connection: RawConnection) -> None:
        stream = connection.open("GetModel")
        await connection.send(stream, framed(leader_pb2.Empty()), end=True)
        while trickle_bytes and not connection.replies[stream].ended.is_set():
            await asyncio.sleep(0.2)
            connection.grant(stream, max(1, trickle_bytes // 5))

    await _each(victim, count, one)


async def trickled_downloads(victim: Victim, count: int = 64) -> None:
    """Downloads of the model at 5 KB a second."""
    await unread_downloads(victim, count, trickle_bytes=5000)


Upload = Callable[[RawConnection, int], Awaitable[None]]  # goes on with the upload on a stream


@asynccontextmanager
async def uploading(
    victim: Victim, token: bytes, work_id: str, total: int, count: int, go_on: Upload
) -> AsyncIterator[None]:
    """So many uploads of one learner's work, each with bytes of its own, that are begun anew when they are ended.

    All have said what they are when the block is entered.
    """
    said, all_said = 0, asyncio.Event()

    async def one(connection: RawConnection) -> None:
        nonlocal said
        while not connection.ended.is_set():
            header = leader_pb2.UpdateHeader(
                token=token, work_id=work_id, examples=1, total_bytes=total, crc32=secrets.randbits(31)
            )
            stream = connection.open("AccumulateGradients")
            await connection.send(stream, framed(leader_pb2.GradientData(header=header)))
            said += 1
            if said >= count:
                all_said.set()
            await go_on(connection, stream)
            await asyncio.sleep(0.05)

    attack = asyncio.create_task(_each(victim, count, one))
    try:
        await all_said.wait()
        yield
    finally:
        attack.cancel()
        await asyncio.wait([attack])


def trickled(file: bytes, piece: int, every_s: float) -> Upload:
    """An upload of so many bytes at a time."""

    async def go_on(connection: RawConnection, stream: int) -> None:
        for start in range(0, len(file), piece):
            if connection.replies[stream].ended.is_set():
                return
            chunk = leader_pb2.GradientData(chunk=file[start : start + piece])
            await connection.send(stream, framed(chunk))
            await asyncio.sleep(every_s)

    return go_on


def begun(file: bytes, *, breaks: bool = False) -> Upload:
    """An upload that lacks its last byte, and is silent then until it is ended, or breaks off."""

    async def go_on(connection: RawConnection, stream: int) -> None:
        for start in range(0, len(file) - 1, _CHUNK_BYTES):
            chunk = leader_pb2.GradientData(chunk=file[start : min(len(file) - 1, start + _CHUNK_BYTES)])
            await connection.send(stream, framed(chunk))
        if breaks:
            connection.reset(stream)
        else:
            await connection.replies[stream].ended.wait()

    return go_on


#: An upload that is broken off near its end.
broken_off = partial(begun, breaks=True)


def over_and_over(attack: Callable[[Victim], Awaitable[None]], each_s: float = 15.0) -> Attacker:
    """An attack that is begun anew from time to time."""

    async def attacking(victim: Victim) -> None:
        while True:
            try:
                async with asyncio.timeout(each_s):
                    await attack(victim)
            except (TimeoutError, *REFUSED):
                await asyncio.sleep(0.1)

    return attacking
