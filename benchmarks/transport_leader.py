"""`python -m benchmarks.transport_leader DIR`: the leader's end of every way to move a payload.

Prints, as one JSON list, which way it serves at which port, with the certificate in DIR and without.
For each line on standard input it prints the CPU seconds of this process so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import grpc
from grpc import aio

from benchmarks.transport_certificate import LOOPBACK, Certificate
from benchmarks.transport_loops import LoopService
from benchmarks.transport_service import make_service, some_values
from benchmarks.transport_sockets import SocketLeader
from benchmarks.transport_wire import (
    BARE,
    CHECKED,
    CHUNKS,
    OBJECTS,
    RECEIVED,
    SOCKETS,
    UNARY,
    Endpoint,
    whole_options,
)
from utils.malloc import keep_freed_memory
from utils.wire.rpc import server_options


async def lead(certificate: Certificate) -> None:
    """Serve until standard input closes."""
    values = some_values()
    endpoints: list[Endpoint] = []
    for secured in (None, certificate):
        port = SocketLeader(values, secured).port
        endpoints += [Endpoint(way, secured is not None, port) for way in (SOCKETS, RECEIVED)]
    servers = [_server(LoopService(values).handler(), whole_options())]
    endpoints += _listen(servers[0], (BARE, CHECKED, OBJECTS, UNARY), certificate)
    for way, chunk_bytes in CHUNKS.items():
        servers.append(_server(make_service(chunk_bytes).handler(), server_options()))
        endpoints += _listen(servers[-1], (way,), certificate)
    for server in servers:
        await server.start()
    print(json.dumps([asdict(endpoint) for endpoint in endpoints]), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)


def _server(handler: grpc.GenericRpcHandler, options: Sequence[tuple[str, int]]) -> aio.Server:
    server = aio.server(options=options)
    server.add_generic_rpc_handlers((handler,))
    return server


def _listen(server: aio.Server, ways: Sequence[str], certificate: Certificate) -> list[Endpoint]:
    """Two ports, one with TLS, that all these ways are served at."""
    credentials = grpc.ssl_server_credentials([(certificate.key, certificate.certificate)])
    ports = {
        False: server.add_insecure_port(f"{LOOPBACK}:0"),
        True: server.add_secure_port(f"{LOOPBACK}:0", credentials),
    }
    return [Endpoint(way, tls, port) for way in ways for tls, port in ports.items()]


if __name__ == "__main__":
    keep_freed_memory()
    asyncio.run(lead(Certificate.within(Path(sys.argv[1]))))
