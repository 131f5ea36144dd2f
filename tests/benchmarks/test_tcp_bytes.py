from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from benchmarks.tcp_bytes import TcpBytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are those of Linux")


def receive(connection: socket.socket, count: int) -> None:
    while count:
        count -= len(connection.recv(count))


def test_what_was_sent_and_received_is_counted() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        before = TcpBytes.now()
        near.sendall(b"x" * 100_000)
        receive(far, 100_000)
        far.sendall(b"y" * 1000)  # and acknowledges what came
        receive(near, 1000)
        after = TcpBytes.now()
    assert after.received - before.received == 101_000
    assert 100_000 <= after.sent - before.sent <= 101_001  # the handshake counts as one


def test_looking_leaves_no_descriptor_open() -> None:
    TcpBytes.now()
    with socket.create_server(("127.0.0.1", 0)), Path(os.devnull).open():
        before = len(list(Path("/proc/self/fd").iterdir()))
        TcpBytes.now()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
