"""The fault proxy: what each end of a real connection sees."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.tools.proxy import Proxy

PATIENCE_S = 20.0


class Target:
    """A listening socket whose connections the test accepts by itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_S)
        self.host, self.port = self.listener.getsockname()
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        end, _ = self.listener.accept()
        end.settimeout(PATIENCE_S)
        self.accepted.append(end)
        return end

    def close(self) -> None:
        for end in (self.listener, *self.accepted):
            end.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with closing(Target()) as target:
        yield target


@pytest.fixture
def proxy(target: Target) -> Iterator[Proxy]:
    with Proxy(target.host, target.port) as proxy:
        yield proxy


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


def dial(proxy: Proxy, clients: list[socket.socket]) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    clients.append(client)
    return client


def read(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def is_reset(end: socket.socket) -> bool:
    """Whether the connection ends with a reset; what still came before is read away."""
    try:
        while end.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


def is_turned_away(proxy: Proxy, clients: list[socket.socket]) -> bool:
    """Whether a new connection is reset, be it while it is made or after."""
    try:
        return is_reset(dial(proxy, clients))
    except ConnectionResetError:
        return True


def test_what_went_through_is_kept_where_somebody_listens(
    target: Target, clients: list[socket.socket]
) -> None:
    with Proxy(target.host, target.port, listens=True) as proxy:
        client, end = dial(proxy, clients), target.accept()
        client.sendall(b"question")
        assert read(end, 8) == b"question"
        end.sendall(b"answer")
        assert read(client, 6) == b"answer"
        assert bytes(proxy.heard or b"") == b"questionanswer"


def test_bytes_go_both_ways_and_are_counted(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    up, down = bytes(range(256)) * 3000, b"answer" * 1000

    sender = threading.Thread(target=client.sendall, args=(up,))
    sender.start()
    assert read(server, len(up)) == up
    sender.join()
    server.sendall(down)
    assert read(client, len(down)) == down

    assert (proxy.bytes_up, proxy.bytes_down, proxy.connections) == (len(up), len(down), 1)


def test_the_end_of_one_direction_leaves_the_other_open(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()

    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read(server, 100) == b"question"
    server.sendall(b"answer")
    server.close()

    assert read(client, 100) == b"answer"


def test_cut_resets_both_ends_and_a_new_connection_works(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.wait_connections(1, PATIENCE_S)

    proxy.cut()

    assert proxy.connections == 0
    assert is_reset(client)
    assert is_reset(server)
    dial(proxy, clients).sendall(b"again")
    assert read(target.accept(), 5) == b"again"


def test_cut_after_resets_at_exactly_that_byte_and_only_once(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.cut_after(100_000, "up")

    client.sendall(bytes(90_000))
    assert len(read(server, 90_000)) == 90_000
    client.sendall(bytes(90_000))

    assert is_reset(client)
    assert is_reset(server)
    assert proxy.bytes_up == 100_000
    dial(proxy, clients).sendall(bytes(150_000))
    assert len(read(target.accept(), 150_000)) == 150_000


def test_cut_after_counts_the_direction_that_it_is_given(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.cut_after(10, "down")

    client.sendall(bytes(1000))
    assert len(read(server, 1000)) == 1000
    server.sendall(bytes(1000))

    assert is_reset(client)
    assert proxy.bytes_down == 10


def test_half_close_up_ends_what_the_target_reads_and_not_what_it_sends(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.wait_connections(1, PATIENCE_S)

    proxy.half_close("up")
    client.sendall(b"lost")
    server.sendall(b"arrives")

    assert read(server, 4) == b""
    assert read(client, 7) == b"arrives"
    assert proxy.bytes_up == 0


def test_half_close_down_ends_what_the_client_reads_and_not_what_it_sends(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.wait_connections(1, PATIENCE_S)

    proxy.half_close("down")
    client.sendall(b"arrives")

    assert read(client, 1) == b""
    assert read(server, 7) == b"arrives"


def test_refuse_resets_new_connections_until_it_is_taken_back(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    proxy.refuse(True)
    assert is_turned_away(proxy, clients)

    proxy.refuse(False)
    dial(proxy, clients).sendall(b"in")
    assert read(target.accept(), 2) == b"in"


def test_a_target_that_does_not_listen_is_a_reset(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    target.listener.close()
    assert is_turned_away(proxy, clients)


def test_pause_forwards_nothing_and_resume_all_of_it(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.pause()
    client.sendall(b"held")

    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.recv(1)
    server.settimeout(PATIENCE_S)
    assert (proxy.connections, proxy.bytes_up) == (1, 0)

    proxy.resume()
    assert read(server, 4) == b"held"


def test_a_delay_holds_each_direction_back(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    client = dial(proxy, clients)
    server = target.accept()
    proxy.set_delay(0.2)
    began = time.monotonic()

    client.sendall(b"to")
    assert read(server, 2) == b"to"
    server.sendall(b"fro")
    assert read(client, 3) == b"fro"

    assert time.monotonic() - began >= 0.4


def test_bandwidth_is_shared_by_all_connections_until_it_is_lifted(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    proxy.set_bandwidth(100_000)
    pairs = [(dial(proxy, clients), target.accept()) for _ in range(2)]
    began = time.monotonic()
    for client, _ in pairs:
        client.sendall(bytes(20_000))
    for _, server in pairs:
        assert len(read(server, 20_000)) == 20_000
    assert 0.4 <= time.monotonic() - began < 4.0

    proxy.set_bandwidth(None)
    client, server = pairs[0]
    began = time.monotonic()
    client.sendall(bytes(1_000_000))
    assert len(read(server, 1_000_000)) == 1_000_000
    assert time.monotonic() - began < 5.0  # 10 s at the limit


def test_held_connections_come_through_in_reversed_order(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    proxy.hold_new(3)
    for name in (b"a", b"b", b"c", b"d"):
        dial(proxy, clients).sendall(name)

    assert [read(target.accept(), 1) for _ in range(4)] == [b"c", b"b", b"a", b"d"]


def test_hold_new_of_zero_lets_through_what_is_held(
    proxy: Proxy, target: Target, clients: list[socket.socket]
) -> None:
    proxy.hold_new(5)
    dial(proxy, clients).sendall(b"a")

    proxy.hold_new(0)
    assert read(target.accept(), 1) == b"a"


def test_wait_connections_times_out(proxy: Proxy) -> None:
    with pytest.raises(TimeoutError):
        proxy.wait_connections(1, 0.05)


def test_close_resets_what_is_open_and_stops_listening(target: Target, clients: list[socket.socket]) -> None:
    proxy = Proxy(target.host, target.port)
    address = proxy.start()
    host, _, port = address.rpartition(":")
    client = dial(proxy, clients)
    proxy.wait_connections(1, PATIENCE_S)

    proxy.close()

    assert is_reset(client)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=PATIENCE_S)
