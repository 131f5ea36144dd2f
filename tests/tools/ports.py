"""Ports of loopback that nobody is given by chance while whoever is to listen there is not up yet, or is away."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_PORTS = range(10_000, 32_000)  # below those that the system gives to whoever asks for any
_TRIES = 1000
_random = random.SystemRandom()  # several test processes choose at a time


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    for _ in range(_TRIES):
        port = _random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port of 127.0.0.1 from {_PORTS.start} to {_PORTS.stop} was free in {_TRIES} tries")


def closed_address() -> str:
    """HOST:PORT of this machine where nobody listens."""
    return f"127.0.0.1:{free_port()}"
