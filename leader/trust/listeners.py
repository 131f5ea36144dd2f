"""The ports of a run: in plain, or encrypted with callers that prove who they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import grpc
from grpc import aio

from leader.condition import never
from leader.config import RunConfig
from leader.trust.guard import Guard
from utils.errors import ConfigError
from utils.trust.credentials import Credentials

#: Calls of one connection at once: a session, a stream of gradients, and transfers beside them.
STREAMS = 32


class Ports:
    """How a run listens: here at one port without encryption, whose callers are not known."""

    options: tuple[tuple[str, int], ...] = ()  # of the gRPC server, beside those of every run
    interceptors: tuple[aio.ServerInterceptor, ...] = ()
    services: Mapping[str, grpc.GenericRpcHandler] = {}  # beside LeaderService, by name
    #: Returns when another server must listen, with other credentials.
    renewed: Callable[[], Awaitable[None]] = staticmethod(never)

    def open(self, server: aio.Server, listen: str) -> int:
        """Listen on HOST:PORT; gives the port. Raises ConfigError."""
        return _bind(server.add_insecure_port, listen, "--listen")


class SecurePorts(Ports):
    """TLS with client certificates; where asked for, a port without them for JWTs, and one in plain."""

    def __init__(
        self,
        config: RunConfig,
        guard: Guard,
        credentials: Callable[[], Credentials],
        services: Mapping[str, grpc.GenericRpcHandler],
        renewed: Callable[[], Awaitable[None]] = never,
    ) -> None:
        limits = config.limits
        self.options = (
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_allowed_incoming_connections", limits.connections or 2 * limits.max_learners + 64),
            ("grpc.server_handshake_timeout_ms", round(1000 * limits.handshake_s)),
        )
        self.interceptors = (guard,)
        self.services = services
        self._plain = config.trust.plain_listen
        self._jwt = config.trust.jwt_listen
        self._credentials = credentials  # of a server that begins to listen now
        self.renewed = renewed

    def open(self, server: aio.Server, listen: str) -> int:
        """See Ports."""
        # Nothing of these changes while the server listens: gRPC crashes when a reload meets a handshake.
        own = self._credentials()
        anybody = grpc.ssl_server_credentials([(own.key, own.certificate)])
        if self._plain:
            _bind(server.add_insecure_port, self._plain, "trust.plain_listen")
        if self._jwt:
            _bind(lambda address: server.add_secure_port(address, anybody), self._jwt, "trust.jwt_listen")
        return _bind(lambda address: server.add_secure_port(address, own.for_server()), listen, "--listen")


def _bind(add: Callable[[str], int], listen: str, key: str) -> int:
    try:
        return add(listen)
    except RuntimeError:
        raise ConfigError(
            f"can't listen on {listen}: the port is taken or the address is not this machine's; "
            f"choose another with {key} HOST:PORT"
        ) from None
