from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.trust.access.connections import end_connection


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_connection_of_one_peer_is_ended_and_no_other(host: str) -> None:
    peers: dict[str, asyncio.Event] = {}
    called = asyncio.Event()

    async def stay(request: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        peers[context.peer()] = asyncio.Event()
        called.set()
        await peers[context.peer()].wait()
        return b"answered"

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(stay)

    async def scenario() -> None:
        server = aio.server()
        server.add_generic_rpc_handlers((Service(),))
        port = server.add_insecure_port(f"{host}:0")
        await server.start()
        own = (("grpc.use_local_subchannel_pool", 1),)
        async with (
            asyncio.timeout(20),
            aio.insecure_channel(f"{host}:{port}", own) as one,
            aio.insecure_channel(f"{host}:{port}", own) as other,
        ):
            calls: list[Any] = []
            for channel in (one, other):
                method: Any = channel.unary_unary("/a/b")
                calls.append(method(b""))
                await called.wait()
                called.clear()
            ended, kept = peers
            assert end_connection(ended)
            assert await calls[0].code() == grpc.StatusCode.UNAVAILABLE
            peers[kept].set()
            assert await calls[1] == b"answered"
        await server.stop(None)

    if host == "[::1]" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    asyncio.run(scenario())


def test_a_peer_that_is_not_there_is_not_found() -> None:
    assert not end_connection("ipv4:127.0.0.1:1")


#: In a process of its own: gRPC, which other tests have used in this one, closes its sockets when it likes.
COUNT = """
import socket, sys
from pathlib import Path
from leader.trust.access.connections import count_descriptors
folder = Path(sys.argv[1])
before = count_descriptors(folder)
opened = [socket.socket() for _ in range(7)]
print(count_descriptors(folder) - before)
"""


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/none"])
def test_descriptors_are_counted_with_and_without_the_systems_own_number(folder: str) -> None:
    command = [sys.executable, "-c", COUNT, folder]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "7\n"
