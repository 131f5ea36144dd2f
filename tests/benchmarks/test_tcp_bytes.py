from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are those of Linux")

#: In processes of their own: sockets that other tests have left in this one are counted too, and closed at any time.
COUNT = """
import socket
from benchmarks.tcp_bytes import TcpBytes

def receive(connection, count):
    while count:
        count -= len(connection.recv(count))

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
print(after.received - before.received, after.sent - before.sent)
"""
LOOK = """
import os, socket
from benchmarks.tcp_bytes import TcpBytes

TcpBytes.now()
with socket.create_server(("127.0.0.1", 0)), open(os.devnull):
    before = os.listdir("/proc/self/fd")
    TcpBytes.now()
    print(len(os.listdir("/proc/self/fd")) - len(before))
"""


def said(script: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_what_was_sent_and_received_is_counted() -> None:
    received, sent = said(COUNT)
    assert received == 101_000
    assert 100_000 <= sent <= 101_001  # the handshake counts as one


def test_looking_leaves_no_descriptor_open() -> None:
    assert said(LOOK) == [0]
