"""What tools expect of a gRPC server: health checking and reflection."""

from __future__ import annotations

import asyncio

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import TIMEOUT_S, play
from utils.wire.rpc import SERVICE


def ask(address: str) -> None:
    """Ask as a tool does that knows nothing of this project."""
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert check(request, timeout=TIMEOUT_S).status == health_pb2.HealthCheckResponse.SERVING
        reflection = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in reflection.get_services()
        described = reflection.FindFileContainingSymbol(SERVICE)
        assert described.SerializeToString() == leader_pb2.DESCRIPTOR.serialized_pb


def test_health_and_reflection_answer() -> None:
    async def scenario(cluster: Cluster) -> None:
        await asyncio.to_thread(ask, cluster.address)

    play(scenario)


def test_a_leader_that_is_killed_while_its_server_ends_listens_no_more() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with aio.insecure_channel(cluster.address) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            said = aiter(watch)
            assert (await anext(said)).status == health_pb2.HealthCheckResponse.SERVING
            cluster.app.coordinator.stop("enough")
            # The server waits for this call to end now.
            assert (await anext(said)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await cluster.leader.kill()
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE

    play(scenario)
