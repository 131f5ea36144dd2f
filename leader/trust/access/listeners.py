"""The ports of a run: in plain, or encrypted with callers that prove who they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import grpc
from grpc import aio

from leader.condition import never
from leader.config import RunConfig
from leader.trust.access.connections import STREAMS, most_connections
from leader.trust.access.guard import Guard
from utils.errors import ConfigError
from utils.trust.credentials import Credentials


class Ports:
    """How a run listens: here at one port without encryption, whose callers are not known."""

    services: Mapping[str, grpc.GenericRpcHandler] = {}  # beside LeaderService, by name
    #: Returns when another server must listen, with other credentials.
    renewed: Callable[[], Awaitable[None]] = staticmethod(never)

    def __init__(self, config: RunConfig, guard: Guard, count: int = 1, key: str = "--listen") -> None:
        """`guard` stands at all `count` of them; `key` says where the address of the first one is set."""
        self._key = key
        self.guard = guard
        self.over = guard.over
        self.connections = guard.connections
        self.connections.most = most_connections(config.limits, count)
        #: Of the gRPC server, beside those of every run.
        self.options = (
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_allowed_incoming_connections", self.connections.most),
            ("grpc.server_handshake_timeout_ms", round(1000 * config.limits.handshake_s)),
        )
        self.interceptors: tuple[aio.ServerInterceptor, ...] = (guard,)

    def open(self, server: aio.Server, listen: str) -> int:
        """Listen on HOST:PORT; gives the port. Raises ConfigError."""
        return self._bind(server.add_insecure_port, listen, self._key)

    def _bind(self, add: Callable[[str], int], listen: str, key: str) -> int:
        try:
            port = add(listen)
        except RuntimeError:
            raise ConfigError(
                f"can't listen on {listen}: the port is taken or the address is not this machine's; "
                f"choose another with {key} HOST:PORT"
            ) from None
        self.connections.ports.add(port)
        return port


class SecurePorts(Ports):
    """TLS with client certificates; where asked for, a port without them for JWTs, and one in plain.

    With `alone` there are none beside it.
    """

    def __init__(
        self,
        config: RunConfig,
        guard: Guard,
        credentials: Callable[[], Credentials],
        services: Mapping[str, grpc.GenericRpcHandler],
        renewed: Callable[[], Awaitable[None]] = never,
        key: str = "--listen",
        alone: bool = False,
    ) -> None:
        self._plain = "" if alone else config.trust.plain_listen
        self._jwt = "" if alone else config.trust.jwt_listen
        http = not alone and bool(config.http.listen)
        super().__init__(config, guard, 1 + bool(self._plain) + bool(self._jwt) + http, key)
        self.services = services
        self._credentials = credentials  # of a server that begins to listen now
        self.renewed = renewed

    def open(self, server: aio.Server, listen: str) -> int:
        """See Ports."""
        # Nothing of these changes while the server listens: gRPC crashes when a reload meets a handshake.
        own = self._credentials()
        anybody = grpc.ssl_server_credentials([(own.key, own.certificate)])
        if self._plain:
            self._bind(server.add_insecure_port, self._plain, "trust.plain_listen")
        if self._jwt:
            self._bind(
                lambda address: server.add_secure_port(address, anybody), self._jwt, "trust.jwt_listen"
            )
        return self._bind(
            lambda address: server.add_secure_port(address, own.for_server()), listen, self._key
        )
