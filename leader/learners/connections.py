"""Whether a connection to this process still stands: gRPC tells nobody when one has ended."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from leader.trust.callers import host_of

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"


def stands(peer: str) -> bool | None:
    """Whether the connection from a gRPC peer is open; None where this system does not say."""
    try:
        packed = ipaddress.ip_address(host_of(peer)).packed
        # As the kernel prints it: in words of the machine's order, here that of all that torch runs on.
        words = "".join(packed[at : at + 4][::-1].hex() for at in range(0, len(packed), 4))
        remote = f"{words}:{int(peer.rpartition(':')[2]):04x}".upper()
        rows = [line.split()[2:4] for table in _TABLES for line in table.read_text().splitlines()[1:]]
    except (OSError, ValueError):
        return None
    return any(address.endswith(remote) and state == _ESTABLISHED for address, state in rows)
