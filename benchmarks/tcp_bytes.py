"""Bytes on this process's TCP connections, as the kernel counts them: a check on counters of our own.

The offsets are those of `struct tcp_info` (include/uapi/linux/tcp.h), which only ever grows at its end.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TCP_INFO = 11  # socket.TCP_INFO exists on Linux alone
_BYTES_ACKED = 120  # tcpi_bytes_acked, then tcpi_bytes_received, 64 bits each
_INFO_BYTES = 136
_DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True)
class TcpBytes:
    """Payload of TCP over all connections that are open: HTTP/2 and gRPC framing included."""

    sent: int  # and acknowledged
    received: int

    @classmethod
    def now(cls) -> TcpBytes:
        """The counters of this process; zeros where the system has none."""
        pairs = list(_counters()) if _DESCRIPTORS.is_dir() else []
        return cls(sum(sent for sent, _ in pairs), sum(received for _, received in pairs))


def _counters() -> Iterator[tuple[int, int]]:
    for path in sorted(_DESCRIPTORS.iterdir()):
        with suppress(OSError):  # closed since
            if str(path.readlink()).startswith("socket:") and (counted := _counted(int(path.name))):
                yield counted


def _counted(descriptor: int) -> tuple[int, int] | None:
    """What one socket has sent and received; None if it is not TCP."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    sent, received = struct.unpack_from("=QQ", info, _BYTES_ACKED)
    return sent, received
