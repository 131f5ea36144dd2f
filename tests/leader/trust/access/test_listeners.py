"""The ports of a secure run: bounded against whoever only connects, and one in plain where it is asked for."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.identities.callers import Caller, caller_of
from protos import leader_pb2
from tests.leader.trust.fleet import Fleet, connect
from tests.tools.ports import free_port
from utils.errors import ConfigError, FlockstepError, ForbiddenError
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.status import failures_told

TIMEOUT_S = 20.0


async def _get_work(request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
    return leader_pb2.WorkOrders()


def limited(handshake_s: float) -> RunConfig:
    limits = LimitsConfig(handshake_s=handshake_s, connections=3)
    return RunConfig(trust=TrustConfig(mode="on"), limits=limits)


def test_more_connections_than_the_limit_are_closed_at_once(tmp_path: Path) -> None:
    fleet, config = Fleet(tmp_path), limited(2 * TIMEOUT_S)

    async def scenario() -> None:
        async with fleet.serving({contract.GET_WORK: _get_work}, fleet.guard(config), config) as address:
            host, _, port = address.rpartition(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
            reader, writer = await asyncio.open_connection(host, int(port))
            assert await reader.read() == b""  # the fourth does not wait for a handshake
            writer.close()
            for reader, writer in silent:
                assert not reader.at_eof()
                writer.close()

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))


def test_a_silent_connection_is_closed_after_a_while(tmp_path: Path) -> None:
    fleet, config = Fleet(tmp_path), limited(0.5)

    async def scenario() -> None:
        async with fleet.serving({contract.GET_WORK: _get_work}, fleet.guard(config), config) as address:
            host, _, port = address.rpartition(":")
            began = time.monotonic()
            for reader, writer in [await asyncio.open_connection(host, int(port)) for _ in range(3)]:
                assert await reader.read() == b""
                writer.close()
            assert time.monotonic() - began > 0.4
            async with connect(address, fleet.admit("ann")) as channel:
                await contract.GET_WORK.ask(channel, leader_pb2.WorkRequest(), TIMEOUT_S)

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))


def test_a_plain_port_is_for_the_plain_contract_and_its_callers_are_nobody(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    plain = f"127.0.0.1:{free_port()}"
    config = RunConfig(trust=TrustConfig(mode="on", plain_listen=plain))
    callers: list[Caller] = []

    async def get_model(request: leader_pb2.Empty, context: Context) -> None:
        callers.append(caller_of(context))

    calls: dict[contract.Method[Any, Any], contract.Call] = {
        contract.GET_WORK: _get_work,
        contract.GET_MODEL: get_model,
    }

    async def scenario() -> None:
        async with fleet.serving(calls, fleet.guard(config), config), aio.insecure_channel(plain) as channel:
            async for _ in contract.GET_MODEL.listen(channel, leader_pb2.Empty()):
                pass
            with pytest.raises(FlockstepError) as caught, failures_told():
                await contract.GET_WORK.ask(channel, leader_pb2.WorkRequest(), TIMEOUT_S)
            assert type(caught.value) is ForbiddenError

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))
    (caller,) = callers
    assert (caller.name, caller.role, caller.known, caller.address) == ("", "plain", False, "127.0.0.1")
    assert caller.place.startswith("ipv4:127.0.0.1:")


def test_a_port_that_is_taken_is_told_with_the_key_that_names_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            config = RunConfig(trust=TrustConfig(mode="on", plain_listen=address))
            with pytest.raises(ConfigError, match=f"can't listen on {address}.*trust.plain_listen HOST:PORT"):
                async with fleet.serving({contract.GET_WORK: _get_work}, fleet.guard(config), config):
                    pass

    asyncio.run(scenario())
