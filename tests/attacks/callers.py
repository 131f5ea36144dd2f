"""Attackers that call as learners do, but more often, in other names, with other words: over and over in a siege."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, suppress

from grpc import aio

from protos import leader_pb2
from tests.attacks.claims import own, refusal_of
from tests.attacks.headers import bomb, costly_header, of_metrics
from tests.attacks.raw_http2 import RawConnection, framed
from tests.attacks.siege import DEEDS, Victim
from tests.attacks.transfers import broken_off, trickled, uploading
from tests.strangers import Stranger


async def claims(victim: Victim) -> None:
    """Register with a claim of 2^35 examples of one's own."""
    async with Stranger(victim.address, victim.held) as thief:
        await refusal_of(thief.register(own_data=own(1 << 35)))


async def names(victim: Victim) -> None:
    """Register under the names of others."""
    async with Stranger(victim.address, victim.held) as thief:
        for name in ("a", "b", "newcomer"):
            await refusal_of(thief.register(name))


async def come_and_go(victim: Victim) -> None:
    """Register, open a session and cut the connection."""
    async with Stranger(victim.address, victim.held) as passer:
        await passer.register()
        await passer.open_session()


async def plain_registrations(victim: Victim, count: int = 1000) -> None:
    """Plain learners that register, a connection each, and are never heard of again."""
    for _ in range(count):
        async with Stranger(victim.address, victim.held) as stranger:
            await refusal_of(stranger.register(control=leader_pb2.CONTROL_PLAIN))


async def own_address(victim: Victim) -> None:
    """Ask to be dialled where the leader itself listens."""
    async with Stranger(victim.address, victim.held) as stranger:
        await refusal_of(stranger.register(control=leader_pb2.CONTROL_DIALLED, network_addr=victim.address))


async def dialled(victim: Victim, count: int = 400) -> None:
    """Ask to be dialled at so many ports, where somebody listens and says nothing, until cancelled."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    async with AsyncExitStack() as stack:
        for _ in range(count):
            server = await stack.enter_async_context(await asyncio.start_server(silent, "127.0.0.1", 0))
            listens = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            stranger = await stack.enter_async_context(Stranger(victim.address, victim.held))
            await refusal_of(stranger.register(control=leader_pb2.CONTROL_DIALLED, network_addr=listens))
        await asyncio.Event().wait()


async def _model(victim: Victim, token: bytes) -> bytes:
    """The newest model, which has the form of an update."""
    async with Stranger(victim.address, victim.held) as reader:
        chunks = reader.stub.GetModel(leader_pb2.Empty(token=token))
        return b"".join([chunk.chunk async for chunk in chunks])


async def forged_work(victim: Victim, *, token: bytes, work_id: str) -> None:
    """Send an update for work of others, whose ids are guessed."""
    file = await _model(victim, token)
    async with Stranger(victim.address, victim.held) as thief:
        thief.token = token
        for _ in range(10):
            other = f"{work_id.rpartition('-')[0]}-{secrets.token_hex(16)}"
            try:
                await thief.send(file, other)
            except aio.AioRpcError:
                await asyncio.sleep(0)


async def broken_uploads(victim: Victim, *, token: bytes, work_id: str) -> None:
    """100 uploads of one's own work that are broken off near their end and begun anew with other bytes."""
    file = await _model(victim, token)
    async with uploading(victim, token, work_id, len(file), 100, broken_off(file)):
        await asyncio.Event().wait()


async def trickled_uploads(victim: Victim, *, token: bytes, work_id: str) -> None:
    """100 uploads of one's own work, a byte a second each."""
    file = await _model(victim, token)
    async with uploading(victim, token, work_id, len(file), 100, trickled(file, 1, 1.0)):
        await asyncio.Event().wait()


async def slow_uploads(victim: Victim, *, token: bytes, work_id: str) -> None:
    """100 uploads of one's own work, 400 bytes a second each: above what a transfer must move in a minute."""
    file = await _model(victim, token)
    async with uploading(victim, token, work_id, len(file), 100, trickled(file, 200, 0.5)):
        await asyncio.Event().wait()


async def _refused(victim: Victim, token: bytes, work_id: str, file: bytes, at_once: int = 16) -> None:
    """Send a file that is no update so many times at once."""

    async def one(thief: Stranger) -> None:
        with suppress(aio.AioRpcError):
            await thief.send(file, work_id)

    async with Stranger(victim.address, victim.held) as thief:
        thief.token = token
        while True:
            await asyncio.gather(*(one(thief) for _ in range(at_once)))
            DEEDS["refused files"] += at_once


async def zstd_bombs(victim: Victim, *, token: bytes, work_id: str) -> None:
    """Updates of some KB that zstd inflates to a header of 45 MB."""
    await _refused(victim, token, work_id, await asyncio.to_thread(bomb, 45 << 20, "int8"))


async def costly_headers(victim: Victim, *, token: bytes, work_id: str) -> None:
    """Updates whose safetensors header is a megabyte of JSON that takes as long to read as any."""
    await _refused(victim, token, work_id, costly_header(1 << 20))


async def many_metrics(victim: Victim, *, token: bytes, work_id: str) -> None:
    """Updates announced by 4 MB of metrics."""
    message = framed(of_metrics((4 << 20) - 1024, token, work_id))
    async with RawConnection(victim.address, victim.held) as connection:

        async def one() -> None:
            stream = connection.open("AccumulateGradients")
            await connection.send(stream, message, end=True)
            await connection.replies[stream].ended.wait()
            del connection.replies[stream]

        while not connection.ended.is_set():
            await asyncio.gather(*(one() for _ in range(16)))
            DEEDS["refused headers"] += 16
