"""`python -m benchmarks.endurance.handshakes`: new connections to a leader, beside others that stay silent.

Each is a connection and a whole TLS handshake of its own, until the leader has taken it; then it is closed. Prints
when these began and ended, as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.trust_folder import choose_way, own_channel
from utils.trust.credentials import Credentials

_AT_ONCE = 16
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Opened:
    """So many connections were opened, from and until these wall-clock times."""

    connections: int
    began: float
    ended: float
    cpu_s: float  # of this end

    @property
    def per_s(self) -> float:
        """Connections a second."""
        return self.connections / (self.ended - self.began)

    @property
    def cpu_ms(self) -> float:
        """CPU of this end for one, in milliseconds."""
        return 1e3 * self.cpu_s / self.connections


async def open_all(leader: str, connections: int, own: Credentials | None) -> Opened:
    """Open that many; raises TimeoutError for one that does not come about."""
    left = iter(range(connections))

    async def open_some() -> None:
        for _ in left:
            async with own_channel(leader, own) as channel, asyncio.timeout(_PATIENCE_S):
                await channel.channel_ready()

    began, cpu_s = time.time(), time.process_time()
    await asyncio.gather(*(open_some() for _ in range(_AT_ONCE)))
    return Opened(connections, began, time.time(), time.process_time() - cpu_s)


def main() -> None:
    """Parse the command line, open the connections, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.handshakes", description=__doc__)
    parser.add_argument("--leader", required=True, metavar="HOST:PORT")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--silent", type=int, default=0)
    parser.add_argument("--trust", type=Path, metavar="DIR", help="the leader's folder of trust")
    options = parser.parse_args()
    host, _, port = options.leader.rpartition(":")
    own = choose_way(options.trust).admit(f"caller-{os.getpid()}")
    with ExitStack() as stack:
        for _ in range(options.silent):
            stack.enter_context(socket.create_connection((host, int(port)), _PATIENCE_S))
        opened = asyncio.run(open_all(options.leader, options.connections, own))
    print(json.dumps(asdict(opened)))


if __name__ == "__main__":
    main()
