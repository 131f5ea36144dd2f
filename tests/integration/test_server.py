"""What tools expect of a gRPC server: health checking and reflection."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import leader_pb2
from tests.integration.harness import TIMEOUT_S, Cluster
from utils.rpc import SERVICE


def test_health_and_reflection_answer(cluster: Cluster) -> None:
    leader = cluster.leader({"data.source": "none", "data.holder": "learner"})
    with grpc.insecure_channel(leader.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request, timeout=TIMEOUT_S).status == health_pb2.HealthCheckResponse.SERVING
        reflection = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in reflection.get_services()
        described = reflection.FindFileContainingSymbol(SERVICE)
        assert described.SerializeToString() == leader_pb2.DESCRIPTOR.serialized_pb
