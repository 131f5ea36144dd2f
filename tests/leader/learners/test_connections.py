from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from leader.learners import workforce
from leader.learners.workforce import stands

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of connections")


@only_linux
@pytest.mark.parametrize(
    ("family", "host", "scheme"),
    [
        # Addresses that nobody else here calls from: ports are given out once for each address.
        (socket.AF_INET, "127.83.12.7", "ipv4:127.83.12.7"),
        (socket.AF_INET6, "::1", "ipv6:%5B::1%5D"),
        (socket.AF_INET6, "::ffff:127.83.12.9", "ipv4:127.83.12.9"),
    ],
)
def test_a_connection_stands_until_its_peer_closes_it(
    family: socket.AddressFamily, host: str, scheme: str
) -> None:
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((host, 0))
        listener.listen()
        client.bind((host, 0))
        client.connect(listener.getsockname())
        served, _ = listener.accept()
        peer = f"{scheme}:{client.getsockname()[1]}"
        with served:
            assert stands(peer) is True
            assert stands(f"{scheme}:{listener.getsockname()[1]}") is True  # the client's end
            client.close()
            assert served.recv(1) == b""
            assert stands(peer) is False


def test_where_it_can_not_be_known_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for peer in ("peer", "unix:/tmp/socket", "ipv4:nobody:1"):
        assert stands(peer) is None
    monkeypatch.setattr(workforce, "_TABLES", (Path("/nowhere/tcp"),))
    assert stands("ipv4:127.0.0.1:1") is None
