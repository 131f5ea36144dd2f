"""The client that speaks HTTP/2 by hand, against the real leader: what it says arrives, and what comes back is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from leader.config import RunConfig
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.attacks.raw_http2 import RawConnection, framed, half
from tests.clusters import IMAGES, SHARDS, play
from tests.leader.trust.fleet import Fleet
from utils.version import PROTOCOL
from utils.wire.contract import GET_WORK


async def registered(connection: RawConnection) -> bytes:
    info = leader_pb2.LearnerInfo(protocol=PROTOCOL, control=leader_pb2.CONTROL_SESSION, name="raw")
    reply = await connection.ask("RegisterLearner", info)
    assert reply.status == 0
    return leader_pb2.AckWithMetadata.FromString(bytes(reply.body[5:])).token


def test_a_call_is_answered_and_a_reset_one_is_not() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with RawConnection(cluster.address) as connection:
            assert len(await registered(connection)) == 16
            stream = connection.open("GetModel")
            await connection.send(stream, half(100, b"only this"))
            connection.reset(stream)
            assert connection.replies[stream].status is None
            assert (await connection.ask("GetModel", b"\xff")).status == 3  # INVALID_ARGUMENT

    play(scenario, SHARDS, data=IMAGES)


def test_no_more_of_a_stream_comes_than_was_granted() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with RawConnection(cluster.address, window=100, grants=False) as connection:
            request = framed(leader_pb2.Empty())
            stream = connection.open("GetModel")
            await connection.send(stream, request, end=True)
            reply = connection.replies[stream]
            for granted in range(100, 400, 10):
                await connection.until(lambda: reply.received >= granted or reply.ended.is_set())  # noqa: B023
                assert reply.received == granted, reply
                connection.grant(stream, 10)

    play(scenario, SHARDS, data=IMAGES)


def test_streams_are_opened_and_reset_by_the_thousand() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with RawConnection(cluster.address) as connection:
            assert await connection.open_and_reset("Session", 2000) <= 2000
        async with RawConnection(cluster.address) as connection:
            assert (await connection.ask("GetModel", leader_pb2.Empty())).received > 100

    play(scenario, SHARDS, data=IMAGES)


def test_it_speaks_tls_with_what_it_holds(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    config = RunConfig()

    async def get_work(request: leader_pb2.WorkRequest, context: object) -> leader_pb2.WorkOrders:
        return leader_pb2.WorkOrders(orders=[leader_pb2.WorkOrder(work_id=request.token.hex())])

    async def scenario() -> None:
        async with (
            fleet.serving({GET_WORK: get_work}, fleet.guard(config), config) as address,
            RawConnection(address, fleet.admit("eve")) as connection,
        ):
            reply = await connection.ask("GetWork", leader_pb2.WorkRequest(token=b"raw"))
            assert reply.body == framed(await get_work(leader_pb2.WorkRequest(token=b"raw"), None))

    asyncio.run(scenario())
