"""One edge below: who it is, what is awaited of it, and the sum that it brings."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from leader.distributed.contract import VERSION
from leader.distributed.sum_slices import Bytes
from protos import edge_pb2
from utils.console import printable
from utils.errors import IncompatibleError, PayloadError, StalledError
from utils.wire.rpc import is_target

_log = logging.getLogger(__name__)
_TOKEN_BYTES = 16
_MOST_ADDRESSES = 4096  # of one edge and those below it
_LONGEST_NAME = 64


@dataclass(frozen=True)
class Partial:
    """A sum that was made below."""

    uids: frozenset[bytes]  # of the updates in it
    weights: tuple[int, ...]
    data: Bytes


Take = Callable[[Partial], Awaitable[None]]


@dataclass(eq=False)
class EdgeBelow:
    """One edge, as long as its stream lasts."""

    name: str
    token: bytes
    addresses: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    down: asyncio.Queue[edge_pb2.EdgeDown | None] = field(default_factory=asyncio.Queue)
    waiting: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)  # receipts that are being judged
    uids: set[bytes] = field(default_factory=set)  # of the open sum that are its own, counted or not yet
    asked: tuple[int, frozenset[bytes]] | None = None  # attempt, and whose sum is awaited
    given: asyncio.Future[frozenset[bytes]] | None = None  # the uids of that sum that are lost
    limit: asyncio.Timeout | None = None  # of its time for that
    take: Take | None = None  # what becomes of it
    taking: bool = False  # whether that is under way, edge or no edge
    told: bool = False  # that the run is over, or it leaves before and need not be

    def lose(self, why: str) -> None:
        """Its stream is to end."""
        _log.warning("edge %s is let go: %s", self.name, why)
        self.down.put_nowait(None)

    @asynccontextmanager
    async def in_turn(self, one: asyncio.Lock, sum_s: float) -> AsyncIterator[None]:
        """Bring a sum while no other edge does, in `sum_s` seconds from then on: what others take is not its own."""
        self._due(None)
        try:
            async with one:
                self._due(asyncio.get_running_loop().time() + sum_s)
                yield
        finally:  # where the call was broken off it may come again
            self._due(asyncio.get_running_loop().time() + sum_s)

    def _due(self, when: float | None) -> None:
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(when)

    def serves_at(self, serving: edge_pb2.Serving) -> None:
        """Note where learners reach it; raises PayloadError where that can't be."""
        told, urls = tuple(serving.addresses), tuple(serving.urls)
        if len(told) > _MOST_ADDRESSES or not all(is_target(address) for address in told):
            raise PayloadError("it names addresses that are no HOST:PORT, or too many")
        if len(urls) > _MOST_ADDRESSES or not all(_is_url(url) for url in urls):
            raise PayloadError("it names URLs that are no http(s)://HOST:PORT, or too many")
        self.addresses, self.urls = told, urls


async def greeted(messages: AsyncIterator[edge_pb2.EdgeUp], silent_s: float) -> EdgeBelow:
    """Who says hello; raises the WireError that it is refused with."""
    try:
        async with asyncio.timeout(silent_s):
            first = await anext(messages, None)
    except TimeoutError:
        raise StalledError("an edge opened a stream and did not say hello") from None
    if first is None or first.WhichOneof("kind") != "hello":
        raise PayloadError("an edge begins with hello")
    if first.hello.protocol != VERSION:
        raise IncompatibleError(
            f"this edge ({first.hello.release[:20]}) speaks version {first.hello.protocol} of the contract of "
            f"edges, this side {VERSION}; install the same release on both"
        )
    return EdgeBelow(printable(first.hello.name[:_LONGEST_NAME]) or "?", os.urandom(_TOKEN_BYTES))


def _is_url(text: str) -> bool:
    scheme, _, address = text.partition("://")
    return scheme in ("http", "https") and is_target(address)
