"""Ending a connection, which gRPC leaves to the client: for those whose calls can't be ended otherwise."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path


def end_connection(peer: str) -> bool:
    """Close the connection of this process from a gRPC peer, such as ipv4:10.0.0.1:4711; whether it was found.

    Its other calls end as well, with UNAVAILABLE; gRPC frees what it keeps for them.
    """
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError):  # not a socket, or gone meanwhile
            end = socket.socket(fileno=int(path.name))
            try:
                if _peer(end) == peer:
                    end.shutdown(socket.SHUT_RDWR)
                    return True
            finally:
                end.detach()  # it is gRPC's
    return False


def _peer(end: socket.socket) -> str:
    """The other end as gRPC calls it; "" if it is not on a network."""
    if end.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    host, port = end.getpeername()[:2]
    host = str(host).removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
