"""The gRPC server of one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from leader.config import RunConfig
from leader.rpc.service import LeaderService
from leader.trust.listeners import PlainPorts, Ports
from utils.wire.rpc import SERVICE, server_options

_GRACE_S = 2.0
_PLAIN = PlainPorts()


@asynccontextmanager
async def serving(config: RunConfig, service: LeaderService, ports: Ports = _PLAIN) -> AsyncIterator[str]:
    """The gRPC server with health checking and reflection; gives the address it listens on.

    Calls under way get a moment to end, unless the task is cancelled.

    Raises ConfigError if the port is taken or the address is not this machine's.
    """
    listen, limits = config.listen, config.limits
    # Every learner holds one session and makes a call or two beside it; the rest is abuse.
    server = aio.server(
        options=server_options(limits.message_bytes, limits.metadata_bytes, limits.window_bytes)
        + ports.options,
        interceptors=ports.interceptors,
        maximum_concurrent_rpcs=4 * limits.max_learners + 64,
    )
    server.add_generic_rpc_handlers((service.handler(), *ports.services.values()))
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = (SERVICE, *ports.services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = ports.open(server, listen)
    await server.start()
    for name in ("", SERVICE):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    grace_s: float | None = _GRACE_S
    try:
        yield f"{listen.rpartition(':')[0]}:{port}"
    except asyncio.CancelledError:
        grace_s = None
        raise
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(grace_s)
