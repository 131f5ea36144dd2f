"""Learners that take work, or a place, and do nothing for it: silent, beating without an update, or giving up."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protos import leader_pb2
from tests.strangers import Stranger, at_work
from utils.trust.credentials import Credentials

_BEAT_S = 0.2


async def register_and_be_silent(
    address: str, count: int, held: Credentials | None = None, *, control: int = leader_pb2.CONTROL_PLAIN
) -> None:
    """Register so many learners, which never call again."""
    async with Stranger(address, held) as stranger:
        for _ in range(count):
            name = f"silent-{secrets.token_hex(4)}"
            await stranger.register(name, control=control, protocol=0)


async def beat(stranger: Stranger) -> None:
    """Show life on an open session, for ever, and nothing else."""
    while True:
        stranger.say(heartbeat=leader_pb2.Heartbeat())
        await asyncio.sleep(_BEAT_S)


@asynccontextmanager
async def beating(address: str, name: str, held: Credentials | None = None) -> AsyncIterator[Stranger]:
    """A learner that takes work, shows life, and never sends."""
    async with Stranger(address, held) as stranger:
        await stranger.register(name)
        await stranger.open_session()
        alive = [asyncio.create_task(doing) for doing in (beat(stranger), stranger.ended())]
        try:
            yield stranger
        finally:
            for doing in alive:
                doing.cancel()


async def give_up(stranger: Stranger, order: leader_pb2.WorkOrder) -> None:
    """Say that this work can't be done; the leader then lets the learner go."""
    stranger.say(failure=leader_pb2.Failure(work_id=order.work_id, message="can't do it"))
    await stranger.ended()


async def take_and_give_up(address: str, name: str) -> None:
    """Register, take a work order, and give it up."""
    async with at_work(address, name) as stranger:
        await give_up(stranger, await stranger.work())
