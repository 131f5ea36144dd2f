"""`python -m benchmarks.transport.leader DIR`: the leader's end of every way to move a payload.

Prints, as one JSON list, which way it serves at which port: in the clear, and as a secure leader does (TLS that
wants certificates of the CA in DIR, before Flockstep's own service the guard; plain sockets want none).
For each line on standard input it prints the CPU seconds of this process so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import grpc
from grpc import aio

from benchmarks.transport.loops import LoopService
from benchmarks.transport.service import make_service, some_values
from benchmarks.transport.sockets import SocketLeader
from benchmarks.transport.wire import (
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
from benchmarks.trust_folder import LOOPBACK, TrustFolder
from leader.config import RunConfig, TrustConfig
from leader.trust.access.guard import Guard
from leader.trust.access.listeners import Ports
from leader.trust.admission import Admission
from leader.trust.identities.callers import Anybody
from utils.malloc import keep_freed_memory
from utils.wire.rpc import server_options

_ANY = f"{LOOPBACK}:0"


async def lead(folder: Path) -> None:
    """Serve until standard input closes."""
    trust = TrustFolder(folder)
    values = some_values()
    endpoints: list[Endpoint] = []
    for pair in (None, trust.server_files()):
        port = SocketLeader(values, pair).port
        endpoints += [Endpoint(way, pair is not None, port) for way in (SOCKETS, RECEIVED)]
    tls = trust.authority.server_credentials().for_server()
    loops = aio.server(options=whole_options())
    loops.add_generic_rpc_handlers((LoopService(values).handler(),))
    bound = {False: loops.add_insecure_port(_ANY), True: loops.add_secure_port(_ANY, tls)}
    for way in (BARE, CHECKED, OBJECTS, UNARY):
        endpoints += [Endpoint(way, secure, port) for secure, port in bound.items()]
    servers = [loops]
    for way, chunk_bytes in CHUNKS.items():
        handler = make_service(chunk_bytes).handler()
        for secure, ports in enumerate((_plain(), _secure(folder))):
            server, port = _server(handler, ports)
            servers.append(server)
            endpoints.append(Endpoint(way, bool(secure), port))
    for server in servers:
        await server.start()
    print(json.dumps([asdict(endpoint) for endpoint in endpoints]), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)


def _plain() -> Ports:
    """The ports of a leader without trust."""
    config = RunConfig()
    return Ports(config, Guard(Anybody(), config.limits, lambda *refused: None))


def _secure(folder: Path) -> Ports:
    """The ports of a secure leader that admits whom the folder of trust knows."""
    config = RunConfig(trust=TrustConfig(mode="on", dir=folder))
    return Admission(config, lambda name, error, caller: None).ports


def _server(handler: grpc.GenericRpcHandler, ports: Ports) -> tuple[aio.Server, int]:
    """A server as the leader's, and its port."""
    server = aio.server(options=server_options() + ports.options, interceptors=ports.interceptors)
    server.add_generic_rpc_handlers((handler,))
    return server, ports.open(server, _ANY)


if __name__ == "__main__":
    keep_freed_memory()
    asyncio.run(lead(Path(sys.argv[1])))
