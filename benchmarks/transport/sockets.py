"""Plain TCP sockets, the reference below gRPC: a thread a connection, and nothing but the bytes."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.transport.wire import CHUNK, DOWN, SOCKETS, UP, Job
from benchmarks.trust_folder import LOOPBACK

_ACK = b"k"
_ORDERS = {DOWN: b"d", UP: b"u"}
_ADD = b"a"  # an upload that is added up


class SocketLeader:
    """Sends the payload, or receives one; may add it to a float32 sum as it comes."""

    def __init__(self, values: NDArray[np.float32], pair: tuple[Path, Path] | None) -> None:
        """Listen, in the clear unless there are files with certificate and key."""
        self._content = values.data.cast("B")
        self.sum = np.zeros_like(values)
        self._lock = threading.Lock()
        self._server = socket.create_server((LOOPBACK, 0))
        self._context: ssl.SSLContext | None = None
        if pair is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*pair)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1])

    def close(self) -> None:
        """Listen no longer; connections end with their learners."""
        self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        if self._context is not None:
            link = self._context.wrap_socket(link, server_side=True)
        with link:
            while order := link.recv(1):
                if order == _ORDERS[DOWN]:
                    link.sendall(self._content)
                else:
                    self._receive(link, add=order == _ADD)
                    link.sendall(_ACK)

    def _receive(self, link: socket.socket, add: bool) -> None:
        buffer = np.empty(CHUNK // 4, np.float32)
        for start in range(0, self.sum.size, buffer.size):
            values = buffer[: self.sum.size - start]
            _fill(link, values.data.cast("B"))
            if add:
                with self._lock:
                    self.sum[start : start + values.size] += values


class SocketLearner:
    """The other end, with one connection that stays open."""

    def __init__(self, values: NDArray[np.float32], port: int, ca_file: Path | None) -> None:
        self._content = values.data.cast("B")
        self.received = bytearray(values.nbytes)
        self._link = socket.create_connection((LOOPBACK, port))
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca_file is not None:
            context = ssl.create_default_context(cafile=ca_file)
            self._link = context.wrap_socket(self._link, server_hostname=LOOPBACK)

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    async def move(self, job: Job) -> None:
        """One transfer; nothing else runs on the event loop meanwhile."""
        if job.direction == DOWN:
            self._link.sendall(_ORDERS[DOWN])
            _fill(self._link, memoryview(self.received))
            return
        self._link.sendall(_ADD if job.endpoint.way == SOCKETS else _ORDERS[UP])
        self._link.sendall(self._content)
        if self._link.recv(1) != _ACK:
            raise RuntimeError("the leader hung up")


def _fill(link: socket.socket, view: memoryview) -> None:
    while len(view):
        count = link.recv_into(view)
        if count == 0:
            raise RuntimeError("the other end hung up")
        view = view[count:]
