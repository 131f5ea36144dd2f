"""gRPC servers of a test's own, on a free port of loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio


@asynccontextmanager
async def started(server: aio.Server, tls: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """Where this server listens, from when it does to the end of the block."""
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
