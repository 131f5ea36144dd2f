"""Of grpcio-health-checking, a health service that nobody asks."""

from __future__ import annotations

from types import SimpleNamespace

from google.protobuf.empty_pb2 import Empty


class HealthServicer:
    """Serves nothing."""

    async def set(self, service: str, status: object) -> None:
        """Nobody is told."""

    async def enter_graceful_shutdown(self) -> None:
        """Nobody is told."""


_response = SimpleNamespace(SERVING=0, SerializeToString=Empty.SerializeToString, FromString=Empty.FromString)
health = SimpleNamespace(
    SERVICE_NAME="grpc.health.v1.Health", aio=SimpleNamespace(HealthServicer=HealthServicer)
)
health_pb2 = SimpleNamespace(HealthCheckRequest=Empty, HealthCheckResponse=_response)
health_pb2_grpc = SimpleNamespace(add_HealthServicer_to_server=lambda servicer, server: None)
