"""The gRPC server of one run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from leader.config import LimitsConfig
from leader.trust.access.listeners import Ports
from utils.errors import ConfigError
from utils.wire.rpc import SERVICE, server_options

_log = logging.getLogger(__name__)
_GRACE_S = 2.0
_CUT_S = 0.2  # that calls have to end in when another server takes over; whoever made them comes again


@asynccontextmanager
async def serving(
    limits: LimitsConfig, listen: str, handlers: Mapping[str, grpc.GenericRpcHandler], ports: Ports
) -> AsyncIterator[str]:
    """A gRPC server with health checking and reflection; gives the address it listens on.

    Calls under way get a moment to end, unless the task is cancelled.

    Args:
        listen: HOST:PORT.
        handlers: of the services, by name.

    Raises ConfigError if the port is taken or the address is not this machine's.
    """
    server = _Server(limits, handlers, ports)
    await server.start(listen)
    tasks = [asyncio.ensure_future(task) for task in (server.renew(), ports.connections.watch())]
    grace_s: float | None = _GRACE_S
    try:
        yield server.address
    except asyncio.CancelledError:
        grace_s = None
        raise
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.stop(grace_s)
        except asyncio.CancelledError:  # a server that is let go while it stops answers for ever
            await server.stop(None)
            raise


class _Server:
    """What listens now; another takes its place where its ports want other credentials."""

    def __init__(
        self, limits: LimitsConfig, handlers: Mapping[str, grpc.GenericRpcHandler], ports: Ports
    ) -> None:
        self._limits = limits
        self._handlers = {**handlers, **ports.services}
        self._ports = ports
        self.address = ""

    async def start(self, listen: str) -> None:
        """Listen on HOST:PORT; raises ConfigError."""
        limits, ports = self._limits, self._ports
        self._server = aio.server(
            options=server_options(limits.message_bytes, limits.metadata_bytes, limits.window_bytes)
            + ports.options,
            interceptors=ports.interceptors,
        )
        self._server.add_generic_rpc_handlers(tuple(self._handlers.values()))
        self._status = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._status, self._server)
        names = (*self._handlers, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.address = f"{listen.rpartition(':')[0]}:{ports.open(self._server, listen)}"
        await self._server.start()
        for name in ("", SERVICE):
            await self._status.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float | None) -> None:
        """Listen no more; calls under way have `grace_s` seconds to end, None = none."""
        await self._status.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        await self._ports.over()

    async def renew(self) -> None:
        """Have another server listen at the same address whenever it must, for ever."""
        while True:
            await self._ports.renewed()
            await self.stop(_CUT_S)
            await self._start_again()
            _log.info("listening with other certificates; whoever was connected comes again")

    async def _start_again(self) -> None:
        while True:
            try:
                return await self.start(self.address)
            except ConfigError as error:  # somebody else was faster to take the port
                _log.warning("nobody can connect: %s", error)
                await asyncio.sleep(_CUT_S)
