"""A name, a shard and a place are nobody else's while their owner lives: not after a cut, nor after a restart."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest
from grpc import aio

from leader.events import UpdateAccepted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, SHARDS, TIMEOUT_S, play
from tests.strangers import Stranger, at_work, update_of


async def refusal_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """How the leader refuses a call."""
    with pytest.raises(aio.AioRpcError) as refusal:
        await call
    return refusal.value.code(), str(refusal.value.details())


async def noticed(cluster: Cluster, name: str) -> None:
    """Wait until the leader knows that the session of a learner is broken."""
    workforce = cluster.app.coordinator.workforce
    [member] = [member for member in workforce if member.name == name]
    assert await workforce.changed.wait_until(lambda: not member.connected, TIMEOUT_S)


def test_a_name_is_not_taken_while_its_owner_reconnects() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with at_work(cluster.address, "owner") as owner, at_work(cluster.address, "other") as other:
            order = await owner.work()
            await owner.cut()
            await noticed(cluster, "owner")
            async with Stranger(cluster.address) as thief, Stranger(cluster.address) as back:
                for token in (b"", b"x" * 16, other.token):
                    code, details = await refusal_of(thief.register("owner", token=token))
                    assert code is grpc.StatusCode.PERMISSION_DENIED
                    assert "the name 'owner' is kept for a while for the learner that had it" in details
                reply = await back.register("owner", token=owner.token)
                assert reply.learner_id == 1
                await back.open_session()
                assert await back.work() == order
                await back.send(update_of(cluster.app.layout, 0.0), order.work_id)
            await other.send(update_of(cluster.app.layout, 0.0), (await other.work()).work_id)
            await cluster.committed(1)

    play(scenario, SHARDS, data=IMAGES)


def test_a_name_is_not_taken_after_a_restart_of_the_leader() -> None:
    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with at_work(cluster.address, "owner") as owner, at_work(cluster.address, "other") as other:
            for learner in (owner, other):
                await learner.send(file, (await learner.work()).work_id)
            await cluster.committed(1)
            shard = (await owner.work()).shard
        await cluster.resume()
        async with Stranger(cluster.address) as thief, Stranger(cluster.address) as back:
            code, details = await refusal_of(thief.register("owner"))
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "the name 'owner' is kept for a while" in details
            async with at_work(cluster.address, "other", token=other.token):
                await back.register("owner", token=owner.token)
                assert back.token == owner.token
                await back.open_session()
                order = await back.work()
                assert (order.round, order.shard) == (2, shard)

    play(scenario, {**SHARDS, "rounds": 5}, data=IMAGES)


def test_a_plain_learners_shard_and_place_are_not_had_by_naming_its_address() -> None:
    address = "victim:1"
    request = leader_pb2.LearnerDataRequest(network_addr=address)

    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with Stranger(cluster.address) as thief, at_work(cluster.address, "other") as other:
            async with Stranger(cluster.address) as victim:
                info = leader_pb2.LearnerInfo(network_addr=address)
                mine = await victim.stub.RegisterLearner(info, timeout=TIMEOUT_S)
                order = await other.work()
                shard = b"".join([piece.chunk async for piece in victim.stub.GetData(request)])
                for call in (thief.stub.GetData(request).read(), thief.send(file)):
                    code, details = await refusal_of(call)
                    assert code is grpc.StatusCode.UNAUTHENTICATED
                    assert "can't tell which learner this call is from" in details
                code, details = await refusal_of(thief.stub.RegisterLearner(info, timeout=TIMEOUT_S))
                assert code is grpc.StatusCode.PERMISSION_DENIED
                assert (await victim.send(file)).success
            async with Stranger(cluster.address) as back:  # its connection has ended, and it has a new one
                assert (
                    await back.stub.RegisterLearner(info, timeout=TIMEOUT_S)
                ).learner_id == mine.learner_id
                assert b"".join([piece.chunk async for piece in back.stub.GetData(request)]) == shard
                await other.send(file, order.work_id)
                await cluster.committed(1)
        counted = [event.learner_id for event in cluster.seen(UpdateAccepted)]
        assert sorted(counted) == [1, 2]

    play(scenario, SHARDS, data=IMAGES)


def test_a_plain_learner_that_makes_each_call_on_a_connection_of_its_own_takes_part() -> None:
    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with at_work(cluster.address, "other") as other:
            async with Stranger(cluster.address) as one:
                await one.stub.RegisterLearner(leader_pb2.LearnerInfo(network_addr="a"), timeout=TIMEOUT_S)
            await other.send(file, (await other.work()).work_id)
            async with Stranger(cluster.address) as two:
                await two.stub.GetData(leader_pb2.LearnerDataRequest(network_addr="a")).read()
            async with Stranger(cluster.address) as three:
                assert (await three.send(file)).success
            await cluster.committed(1)

    play(scenario, SHARDS, data=IMAGES)


def test_the_name_of_who_was_told_that_the_run_is_over_is_free_when_it_is_resumed() -> None:
    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with at_work(cluster.address, "told") as told, at_work(cluster.address, "lost") as lost:
            for learner in (told, lost):
                await learner.send(file, (await learner.work()).work_id)
            await cluster.committed(1)
            shard = (await told.work()).shard
            await lost.cut()
            await noticed(cluster, "lost")
            cluster.app.coordinator.stop("stopped by hand")
            assert (await told.told("stop")).reason == "stopped by hand"
        await cluster.finished()
        await cluster.resume()
        async with at_work(cluster.address, "told") as anew, Stranger(cluster.address) as thief:
            code, details = await refusal_of(thief.register("lost"))
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "the name 'lost' is kept for a while" in details
            async with at_work(cluster.address, "lost", token=lost.token):
                order = await anew.work()
                assert (order.round, order.shard) == (2, shard)

    play(scenario, {**SHARDS, "rounds": 5}, data=IMAGES)
