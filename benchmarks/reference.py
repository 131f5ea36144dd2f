"""The bare costs that a round can't go below: a durable file, and bytes over loopback sockets."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import Popen

from benchmarks.spread import Spread
from utils.files import write_atomically

_ECHO = """\
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as link:
    body = bytearray(int(sys.argv[2]))
    while True:
        view = memoryview(body)
        while len(view):
            count = link.recv_into(view)
            if count == 0:
                sys.exit()
            view = view[count:]
        link.sendall(body)
"""


def timed(work: Callable[[], object], repeats: int) -> Spread:
    """Seconds that `work` takes."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Spread.of(seconds)


def durable_write(size: int, repeats: int) -> Spread:
    """Seconds to write `size` bytes as a checkpoint is written: fsync, rename, fsync of the folder."""
    content = bytes(size)
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as folder:
        return timed(lambda: write_atomically(Path(folder) / "file", [content]), repeats)


def loopback(size: int, peers: int, repeats: int) -> Spread:
    """Seconds to send `size` bytes to each of `peers` processes at once, and to have all of them back."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(peers) as threads:
        command = (sys.executable, "-c", _ECHO, str(server.getsockname()[1]), str(size))
        processes = [Popen(command) for _ in range(peers)]
        links = [server.accept()[0] for _ in processes]
        content, received = bytes(size), [bytearray(size) for _ in links]
        try:
            return timed(
                lambda: list(threads.map(_there_and_back, links, received, [content] * peers)), repeats
            )
        finally:
            for link in links:
                link.close()
            for process in processes:
                process.wait()


def _there_and_back(link: socket.socket, received: bytearray, content: bytes) -> None:
    link.sendall(content)
    view = memoryview(received)
    while len(view):
        view = view[link.recv_into(view) :]
