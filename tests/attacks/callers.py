"""Attackers that call as learners do, but more often, in other names, with other words: over and over in a siege."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack

from grpc import aio

from protos import leader_pb2
from tests.attacks.claims import own, refusal_of
from tests.attacks.raw_http2 import RawConnection, framed
from tests.attacks.siege import Victim
from tests.attacks.transfers import broken_off, trickled, uploading
from tests.strangers import Stranger
from utils.version import PROTOCOL

_BEATS = framed(leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat())) * 1000


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


async def beats(victim: Victim) -> None:
    """Heartbeats on one session as fast as they can be written, until it is ended."""
    info = leader_pb2.LearnerInfo(protocol=PROTOCOL, control=leader_pb2.CONTROL_SESSION)
    async with RawConnection(victim.address, victim.held) as connection:
        reply = await connection.ask("RegisterLearner", info)
        token = leader_pb2.AckWithMetadata.FromString(bytes(reply.body[5:])).token
        session = connection.open("Session")
        await connection.send(session, framed(leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=token))))
        while not connection.replies[session].ended.is_set():
            await connection.send(session, _BEATS)


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
