from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.step_time.link import Links, Usage, through, usage


@pytest.fixture
def links() -> Iterator[str]:
    with Links(bytes_per_s=100e6, delay_s=0.0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address[:2]
        yield f"{host!s}:{port}"
        server.shutdown()
        thread.join()


def test_each_learner_has_a_link_of_its_own_and_keeps_it(links: str) -> None:
    first, second = through(9, "learner-1", links), through(9, "learner-2", links)
    assert len({9, first, second}) == 3
    assert through(9, "learner-1", links) == first


def test_bytes_are_counted_in_both_directions(links: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = through(target.getsockname()[1], "learner-1", links)
        with socket.create_connection(("127.0.0.1", port), 20) as near, target.accept()[0] as far:
            near.sendall(bytes(3000))
            assert len(far.recv(3000, socket.MSG_WAITALL)) == 3000
            far.sendall(bytes(500))
            assert len(near.recv(500, socket.MSG_WAITALL)) == 500
        used = usage(links)
    assert (used.bytes_up, used.bytes_down) == (3000, 500)


def test_without_links_ports_are_as_they_are_and_nothing_is_used() -> None:
    assert through(50051, "learner-1", None) == 50051
    assert usage(None) == Usage()


def test_usage_since_a_moment_is_the_difference() -> None:
    assert Usage(10, 20, 3.0).since(Usage(4, 5, 1.0)) == Usage(6, 15, 2.0)
