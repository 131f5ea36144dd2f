"""Connections that others have opened to the leader: how many there may be, who goes first, and how one is ended."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from leader.config import LimitsConfig
from leader.trust.access.limiter import Limiter
from leader.trust.identities.callers import host_of

_log = logging.getLogger(__name__)

#: Calls of one connection at once: a session, a stream of gradients, and transfers beside them.
STREAMS = 32
#: Calls of a connection that came to nothing, broken off or refused at the door, a second and at once: one that has
#: more is ended. An honest one has a few when its learner stops.
_VAIN_PER_S, _VAIN_AT_ONCE = 50.0, 200.0
#: What one that is broken off counts: of a flood of streams that are opened and reset little more than STREAMS are seen
#: here, for gRPC refuses the others itself, at the price of some memory for each.
_BROKEN_OFF = 8.0
#: Where a host has four times as many, so few of a connection are enough: whoever floods comes again.
_VAIN_AGAIN = 8.0
_LOOK_S = 0.1
#: Of the most that there may be: from the one on those that nobody needs go, down to the other.
_FULL, _ROOMY = 3 / 4, 1 / 2
_SPARE = 64  # descriptors that are no connection's: of checkpoints, spool, data and logs, and gRPC's own

#: Address and port of the other end.
End = tuple[str, int]
IDLE, CALLING, LEARNERS = range(3)  # what a connection is worth


def most_connections(limits: LimitsConfig, ports: int = 1) -> int:
    """Connections at once to each of so many ports: what is asked for, or what descriptors there are for them.

    The process may have as many open files afterwards as that needs and the system permits.
    """
    wanted = limits.connections or 2 * limits.max_learners + 64
    spare = _SPARE + limits.dialled
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = ports * wanted + spare
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS has a lower bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return wanted
    most = max(1, (soft - spare) // ports)
    _log.warning(
        "%d connections at once and not %d (limits.connections), as this process may have %d files open; "
        "for more: ulimit -n %d",
        most,
        wanted,
        soft,
        needed,
    )
    return most


def end_of(peer: str) -> End:
    """The other end of the connection from a gRPC peer."""
    return _end(host_of(peer), int(peer.rpartition(":")[2]))


def _end(host: str, port: int) -> End:
    address = ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address), port


def _descriptors() -> list[int]:
    """Those that this process has open; raises OSError where there is none to look with."""
    with os.scandir("/dev/fd") as entries:
        return [int(entry.name) for entry in entries]


def count_descriptors(folder: Path = Path("/proc/self/fd")) -> int:
    """How many these are; told by Linux from 6.2 on without a look at each. Raises OSError as above."""
    try:
        told = folder.stat().st_size
    except FileNotFoundError:
        told = 0
    return told or len(_descriptors())


def _look(number: int, ending: End | None = None) -> tuple[int, End] | None:
    """The port here and the other end of a connection by its descriptor; it is ended if that is `ending`.

    None for any other descriptor.
    """
    try:
        copy = os.dup(number)  # the number itself may be another's at any time
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            return None
        with socket.socket(fileno=copy) as own:
            if own.family == socket.AF_UNIX:
                return None
            end = _end(*own.getpeername()[:2])
            if end == ending:
                own.shutdown(socket.SHUT_RDWR)
            return own.getsockname()[1], end
    except OSError:  # closed meanwhile, or that of a listener
        return None


def end_connection(peer: str) -> bool:
    """Close the connection of this process from a gRPC peer, such as ipv4:10.0.0.1:4711; whether it was found.

    Its other calls end as well, with UNAVAILABLE; gRPC, which leaves that to the client, frees what it keeps for them.
    """
    end = end_of(peer)
    looked = (_look(number, ending=end) for number in _descriptors())
    return any(at and at[1] == end for at in looked)


class Connections:
    """Those to the leader's ports. gRPC lets nobody end one: its socket is found among the process's own."""

    def __init__(self, worth: Callable[[], Mapping[End, int]]) -> None:
        """`worth` tells which are more than IDLE."""
        self.ports: set[int] = set()
        self.most = 0  # at once
        self._worth = worth
        self._doomed: set[End] = set()
        self._ended: set[End] = set()  # a moment ago: their last calls may still come to nothing
        self._seen: dict[End, None] = {}  # the oldest first
        self._vain = Limiter(_VAIN_PER_S, 1.0, _VAIN_AT_ONCE, "")
        self._vain_of_host = Limiter(4 * _VAIN_PER_S, 1.0, 4 * _VAIN_AT_ONCE, "")

    def in_vain(self, peer: str, *, broken_off: bool) -> bool:
        """Count a call of a gRPC peer that came to nothing; whether its connection is to be ended for that."""
        host = host_of(peer)
        self._vain.add(peer, _BROKEN_OFF if broken_off else 1.0)
        self._vain_of_host.add(host)
        again = self._vain_of_host.wait_s(host) and self._vain.wait_s(peer, _VAIN_AT_ONCE - _VAIN_AGAIN)
        if again or self._vain.wait_s(peer):
            self._doomed.add(end_of(peer))
            return True
        return False

    def is_doomed(self, peer: str) -> bool:
        """Whether the connection of a gRPC peer is about to be ended."""
        return bool(self._doomed or self._ended) and end_of(peer) in self._doomed | self._ended

    async def watch(self) -> None:
        """End those that are to be ended, and where there are too many the oldest of least worth, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(OSError):  # no descriptor is left to look with
                if self._doomed or count_descriptors() > _FULL * self.most:
                    self._ended, self._doomed = self._doomed, set()
                    await asyncio.to_thread(self._review, self._ended, self._worth())

    def _review(self, doomed: set[End], worth: Mapping[End, int]) -> None:
        looked = {number: _look(number) for number in _descriptors()}
        found = {at[1]: number for number, at in looked.items() if at and at[0] in self.ports}
        self._seen = {end: None for end in (*self._seen, *found) if end in found}
        idle_first = sorted(self._seen, key=lambda end: worth.get(end, IDLE))
        too_many = (
            idle_first[: len(found) - int(_ROOMY * self.most)] if len(found) > _FULL * self.most else []
        )
        for end in doomed | {end for end in too_many if worth.get(end, IDLE) < LEARNERS}:
            _look(found.get(end, -1), ending=end)
