"""Of grpcio-reflection, a service that nobody asks."""

from __future__ import annotations

from types import SimpleNamespace

reflection = SimpleNamespace(
    SERVICE_NAME="grpc.reflection.v1alpha.ServerReflection",
    enable_server_reflection=lambda names, server: None,
)
