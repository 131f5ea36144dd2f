"""A torch.distributed store that leads gloo's connections over a link.

gloo has no notion of a proxy: each rank puts the socket address that it listens on into the store, and of
each pair the rank with the larger address dials the other. Here rank 1 reads rank 0's address as 0.0.0.0 (smaller
than any other, and this machine's own when dialled) with the link's port, so it dials the link; rank 0
reads rank 1's as 255.255.255.255 (larger than any other), so it waits.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta

from torch.distributed import Store  # type: ignore[attr-defined]

# What a rank puts into the store: the length of its host name (8 bytes), the name, the length of its address
# (8 bytes), and the address: a sockaddr_storage, that is family (2 bytes), port and IPv4 address in network order,
# and what the two ends of a connection find each other by, which stays as it is.
_LENGTH = 8  # bytes
_AF_INET = socket.AF_INET.to_bytes(2, sys.byteorder)
_SMALLEST, _LARGEST = bytes(4), b"\xff" * 4


def port_of(entry: bytes) -> int:
    """The port in a rank's entry; raises ValueError if it has another form or holds another kind of address."""
    start = _port_at(entry)
    return int.from_bytes(entry[start : start + 2], "big")


def to_dial(entry: bytes, port: int) -> bytes:
    """The entry as the rank reads it that is to dial `port` of this machine."""
    start = _port_at(entry)
    return entry[:start] + port.to_bytes(2, "big") + _SMALLEST + entry[start + 6 :]


def to_await(entry: bytes) -> bytes:
    """The entry as the rank reads it that is to be dialled."""
    start = _port_at(entry)
    return entry[: start + 2] + _LARGEST + entry[start + 6 :]


def _port_at(entry: bytes) -> int:
    name = int.from_bytes(entry[:_LENGTH], sys.byteorder)
    start = 2 * _LENGTH + name
    if entry[start : start + 2] != _AF_INET or len(entry) < start + 8:
        raise ValueError(
            f"gloo puts addresses into its store in another form than expected: {entry[:64].hex()}; "
            "see benchmarks/step_time/ddp_store.py"
        )
    return start + 2


class LinkedStore(Store):
    """Of two ranks; `through` gives the link's port for the port that rank 0 listens on."""

    def __init__(self, store: Store, rank: int, through: Callable[[int], int]) -> None:
        super().__init__()
        self._store = store
        self._rank = rank
        self._through = through

    def set(self, key: str, value: str) -> None:
        """Set as is."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """The value; the other rank's address so that the link lies between."""
        value = bytes(self._store.get(key))
        if key.rpartition("/")[2] != str(1 - self._rank):
            return value
        port = port_of(value)
        return to_dial(value, self._through(port)) if self._rank == 1 else to_await(value)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait for the keys."""
        self._store.wait(list(keys), *((timeout,) if timeout else ()))
