"""Edges: machines that serve models and take updates in the leader's place; which is asked, and what if it fails.

Each learner asks edges in an order of its own, then the leader. An edge that fails costs a short wait once, and is then
left alone for a while, so that neither an order nor a session ends with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from grpc import aio

from learner.wire.connection import MENDABLE, Endpoint
from protos import leader_pb2
from utils.errors import (
    BusyError,
    FlockstepError,
    IncompatibleError,
    LimitError,
    PayloadError,
    UnreachableError,
)
from utils.wire.contract import LeaderStub
from utils.wire.rpc import is_target

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MOST_EDGES = 64
_MOST_TICKET_BYTES = 1024
_CONNECT_S = 3.0
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
_KEPT_S = 600.0  # without an order that names it
#: A model that can't be read may come whole from elsewhere.
UNREADABLE = (PayloadError, LimitError, IncompatibleError)


def ranked(name: str, addresses: Iterable[str]) -> list[str]:
    """The order in which the learner of this name asks edges: by highest random weight, the same everywhere.

    An edge that goes moves its own learners alone, and those to all others alike (Thaler & Ravishankar 1998, "Using
    name-based mappings to increase hit rates").
    """

    def weight(address: str) -> bytes:
        return hashlib.sha256(f"{name}\0{address}".encode()).digest()

    return sorted(set(addresses), key=weight, reverse=True)


def check_via(via: leader_pb2.Via) -> None:
    """Raise PayloadError unless the edges of an order can be asked."""
    if len(via.edges) > _MOST_EDGES or len(via.ticket) > _MOST_TICKET_BYTES:
        raise PayloadError(
            f"work order with {len(via.edges)} edges and a ticket of {len(via.ticket)} bytes; at most "
            f"{_MOST_EDGES} and {_MOST_TICKET_BYTES} are taken"
        )
    for address in via.edges:
        if not is_target(address):
            raise PayloadError(f"work order with the edge {address[:64]!r}, which is no HOST:PORT")


@dataclass(eq=False)
class _Edge:
    """What is known of one edge."""

    address: str
    named_at: float = 0.0
    channel: aio.Channel | None = None
    registration: int = 0  # that the channel was opened in
    wait_s: float = 0.0  # since the last failure
    left_until: float = 0.0


class Edges:
    """The edges of one learner, over all its orders; it asks for one thing at a time."""

    def __init__(
        self,
        dial: Callable[[str], aio.Channel],
        *,
        connect_s: float = _CONNECT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`dial` opens a channel to HOST:PORT, or raises ForbiddenError; `connect_s` is how long that may take."""
        self._dial = dial
        self._connect_s = connect_s
        self._clock = clock
        self._name = ""
        self._registration = 0
        self._edges: dict[str, _Edge] = {}

    def registered(self, name: str) -> None:
        """The leader knows this learner by this name; what it shows of itself may be new."""
        self._name = name
        self._registration += 1

    async def ask(
        self,
        via: leader_pb2.Via,
        leader: Callable[[], Endpoint],
        call: Callable[[Endpoint], Awaitable[T]],
        also: tuple[type[FlockstepError], ...] = (),
    ) -> T:
        """What `call` gives at the first edge that can do it, else at the leader.

        Raises what an edge refuses the thing itself with, and all that is raised at the leader.

        Args:
            also: what is raised at an edge that another place may do better.
        """
        elsewhere: tuple[type[FlockstepError], ...] = (*MENDABLE, BusyError, *also)
        for edge in await self._named(via.edges):
            if self._clock() < edge.left_until:
                continue
            try:
                given = await call(await self._open(edge, via.ticket))
            except elsewhere as error:
                if isinstance(error, BusyError) and error.retry_after_s:
                    raise
                await self._failed(edge, error)
            else:
                edge.wait_s = 0.0
                return given
        return await call(leader())

    async def _named(self, addresses: Iterable[str]) -> list[_Edge]:
        """The edges of an order, as they are asked; those that no order has named for long are let go."""
        now = self._clock()
        named = [self._edges.setdefault(one, _Edge(one)) for one in ranked(self._name, addresses)]
        for edge in named:
            edge.named_at = now
        for edge in [edge for edge in self._edges.values() if now - edge.named_at > _KEPT_S]:
            await _hang_up(self._edges.pop(edge.address))
        return named

    async def _open(self, edge: _Edge, ticket: bytes) -> Endpoint:
        """The edge, connected; raises UnreachableError if it is not within the time allowed."""
        if edge.registration != self._registration:
            await _hang_up(edge)
        if edge.channel is None:
            edge.channel, edge.registration = self._dial(edge.address), self._registration
        try:
            async with asyncio.timeout(self._connect_s):
                await _settled(edge.channel)
        except TimeoutError:
            raise UnreachableError(f"no answer in {self._connect_s:g} s") from None
        return Endpoint(LeaderStub(edge.channel), ticket=ticket)

    async def _failed(self, edge: _Edge, error: FlockstepError) -> None:
        """Leave the edge alone for a while, for longer if that is not the first time."""
        edge.wait_s = min(max(_FIRST_WAIT_S, 2 * edge.wait_s), _LONGEST_WAIT_S)
        edge.left_until = self._clock() + edge.wait_s
        _log.warning("edge %s: %s; going on elsewhere, for at least %g s", edge.address, error, edge.wait_s)
        await _hang_up(edge)

    async def close(self) -> None:
        """End all connections."""
        for edge in self._edges.values():
            await _hang_up(edge)


async def _settled(channel: aio.Channel) -> None:
    """Wait until the channel is connected, or a call on it tells why it is not."""
    while (state := channel.get_state(try_to_connect=True)) not in (
        grpc.ChannelConnectivity.READY,
        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    ):
        await channel.wait_for_state_change(state)


async def _hang_up(edge: _Edge) -> None:
    channel, edge.channel = edge.channel, None
    if channel is not None:
        await channel.close()
