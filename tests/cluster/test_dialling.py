"""Whom the leader calls: a learner on its own host, not whatever address somebody names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from grpc import aio

from protos import leader_pb2, learner_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, TIMEOUT_S, play
from tests.strangers import Stranger, update_of
from tests.tools.grpc_server import started
from utils.errors import WireError
from utils.wire import contract

DIALLED = leader_pb2.CONTROL_DIALLED


@asynccontextmanager
async def listening(host: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """An address where a service listens, and whether somebody has dialled it."""
    dialled = asyncio.Event()

    def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.set()
        writer.close()

    server = await asyncio.start_server(note, host, 0)
    async with server:
        yield f"{host}:{server.sockets[0].getsockname()[1]}", dialled


async def refused(stranger: Stranger, address: str) -> tuple[grpc.StatusCode, str]:
    """How the leader refuses to dial an address."""
    with pytest.raises(aio.AioRpcError) as refusal:
        await stranger.register("made-up", control=DIALLED, network_addr=address)
    return refusal.value.code(), str(refusal.value.details())


def test_the_leader_calls_no_internal_service_that_somebody_names() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            service, called = await stack.enter_async_context(listening("127.0.0.2"))
            own, dialled = await stack.enter_async_context(listening("127.0.0.1"))
            thief, plain, honest = [
                await stack.enter_async_context(Stranger(cluster.address)) for _ in range(3)
            ]
            code, details = await refused(thief, service)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "127.0.0.2 is not where this learner registered from (127.0.0.1)" in details
            # A plain learner, which acts by itself, may say what it likes.
            await plain.stub.RegisterLearner(leader_pb2.LearnerInfo(network_addr=service), timeout=TIMEOUT_S)
            await honest.register("honest", control=DIALLED, network_addr=own)
            await asyncio.wait_for(dialled.wait(), TIMEOUT_S)
            assert not called.is_set()

    play(scenario, {**SHARDS, "learners": 1}, data=IMAGES)


def test_the_leader_does_not_dial_itself() -> None:
    async def scenario(cluster: Cluster) -> None:
        port = cluster.address.rpartition(":")[2]
        async with Stranger(cluster.address) as thief:
            for host in ("127.0.0.1", "localhost", "0.0.0.0"):
                code, details = await refused(thief, f"{host}:{port}")
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert f"{host}:{port} is the leader's own address" in details
        assert len(cluster.app.coordinator.workforce) == 0

    play(scenario, {**SHARDS, "learners": 1}, data=IMAGES)


def test_no_more_learners_are_dialled_than_the_limit() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            own = [(await stack.enter_async_context(listening("127.0.0.1")))[0] for _ in range(3)]
            a, b, c = [await stack.enter_async_context(Stranger(cluster.address)) for _ in range(3)]
            for name, stranger, address in (("a", a, own[0]), ("b", b, own[1])):
                await stranger.register(name, control=DIALLED, network_addr=address)
            code, details = await refused(c, own[2])
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 learners are dialled, no more are (limits.dialled)" in details
            await a.register("a", control=DIALLED, network_addr=own[0], token=a.token)
            await c.register("c")  # one that opens a session needs no dialling

    play(scenario, {**SHARDS, "learners": 4, "limits.dialled": 2}, data=IMAGES)


def test_one_address_is_dialled_for_one_learner() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            own, _ = await stack.enter_async_context(listening("127.0.0.1"))
            a, b, plain = [await stack.enter_async_context(Stranger(cluster.address)) for _ in range(3)]
            await a.register("a", control=DIALLED, network_addr=own)
            code, details = await refused(b, own.replace("127.0.0.1", "localhost"))
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert f"another learner is dialled at {own}; listen elsewhere, or wait" in details
            await a.register("a", control=DIALLED, network_addr=own, token=a.token)  # it is itself
            await plain.register("plain", control=leader_pb2.CONTROL_PLAIN, network_addr=own)
        targets = {member.name: member.link.target for member in cluster.app.coordinator.workforce}
        assert targets == {"a": own, "plain": ""}

    play(scenario, {**SHARDS, "learners": 4}, data=IMAGES)


def test_a_plain_learner_trains_when_it_is_dialled_on_its_own_host() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with Stranger(cluster.address) as plain:

            async def train(request: learner_pb2.Empty, context: contract.Context) -> learner_pb2.Ack:
                await plain.send(update_of(cluster.app.layout, 0.0))
                return learner_pb2.Ack(success=True)

            server = aio.server()
            server.add_generic_rpc_handlers((contract.serve({contract.START_TRAINING: train}, unheard),))
            async with started(server) as address:
                info = leader_pb2.LearnerInfo(network_addr=address.replace("127.0.0.1", "localhost"))
                await plain.stub.RegisterLearner(info, timeout=TIMEOUT_S)
                await cluster.committed(1)

    play(scenario, {**SHARDS, "learners": 1}, data=IMAGES)


async def unheard(method: str, context: contract.Context, error: WireError) -> None:
    raise AssertionError(f"{method} was refused: {error}")
