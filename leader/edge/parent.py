"""The parent of an edge or an aggregator: one joined stream, and another one when that is lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, nullcontext
from typing import Protocol

from grpc import aio

from leader.distributed import contract
from leader.edge.identity import HOW, channel_to, choose
from leader.edge.options import JoinOptions
from protos import edge_pb2, leader_pb2
from utils.errors import (
    BusyError,
    ForbiddenError,
    IncompatibleError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnreachableError,
)
from utils.trust.credentials import Credentials
from utils.version import RELEASE
from utils.wire.patience import Patience
from utils.wire.rpc import is_loopback
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)
_GOODBYE_S = 1.0
_MENDABLE = (UnreachableError, NotReadyError, StalledError, BusyError, PayloadError)


class Work(Protocol):
    """What is done for a parent while one stream lasts."""

    async def heed(self, message: edge_pb2.EdgeDown) -> None:
        """Do what a message says; raises the WireError that the stream is ended with."""
        ...

    def stop(self, reason: str) -> None:
        """The run is over."""
        ...

    def end(self) -> None:
        """The stream is."""
        ...


Up = asyncio.Queue[edge_pb2.EdgeUp | None]
Say = Callable[[edge_pb2.EdgeUp], None]
Begin = Callable[[edge_pb2.Welcome, Say, Callable[[], None]], Awaitable[Work]]


class Parent:
    """Joined from its first Welcome to its Stop."""

    def __init__(self, options: JoinOptions, kind: str, begin: Begin) -> None:
        """`begin` begins the work of a stream, and `kind` is what this program is, such as edge.

        It is given what sends a message up that stream, and what ends it so that another one is joined.

        Raises ConfigError, or ForbiddenError for another machine to which nothing is proved.
        """
        self._options = options
        self._kind = kind
        self._begin = begin
        self.own = choose(options)
        self.name = options.name or socket.gethostname()
        self.channel: aio.Channel | None = None  # while it is joined
        self._work: Work | None = None
        self._beat_s: float | None = None
        self._leaving = asyncio.Event()
        self._opened = asyncio.Event()  # a sum begins, so little is void where the stream ends
        self._outdated = False  # what it was joined with has been replaced
        if not (self.own or options.insecure or is_loopback(options.leader)):
            raise ForbiddenError(
                f"{options.leader} is another machine: start this {kind} once with --join TOKEN (there: {HOW}), "
                "or say --insecure"
            )

    def leave(self) -> None:
        """Have `follow` return."""
        self._leaving.set()

    async def follow(self) -> str:
        """Work until the parent says stop, and why, or until `leave` is called; then it is "".

        Raises UnreachableError when the parent stays away for too long, and what a new stream can't mend.
        """
        with closing(self.own) if self.own is not None else nullcontext():
            return await self._follow_until_left()

    async def _follow_until_left(self) -> str:
        patience = Patience(self._options.connect_timeout_s, self._kind)
        following = asyncio.ensure_future(self._follow(patience))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((following, leaving), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else ""
        finally:
            for task in (following, leaving):
                task.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)

    async def _follow(self, patience: Patience) -> str:
        while True:
            try:
                shown = await self.own.ready() if self.own is not None else None
                async with self._dial(shown) as self.channel:
                    try:
                        stop = await self._join(self.channel)
                    except ForbiddenError as error:
                        if self.own is not None and shown is not None and self.own.mends(shown):
                            raise NotReadyError(str(error)) from error
                        raise
                    finally:
                        if self._work is not None:
                            self._work.end()
                            patience = Patience(self._options.reconnect_timeout_s, self._kind, lost=True)
                        self._work = None
                if stop is not None:
                    _log.info("the leader says stop: %s", stop.reason)
                    return stop.reason or "the run is over"
                if self._outdated:
                    continue
                problem, least_s = "it closed the stream", 0.0
            except _MENDABLE as error:
                problem, least_s = str(error), error.retry_after_s if isinstance(error, BusyError) else 0.0
            await asyncio.sleep(patience.next_wait(self._options.leader, problem, least_s))

    def _dial(self, shown: Credentials | None) -> aio.Channel:
        return channel_to(self._options.leader, shown, self.own.parent_name if self.own is not None else "")

    async def _join(self, channel: aio.Channel) -> leader_pb2.Stop | None:
        """One stream, from its beginning to its end; the parent's Stop, or None if it ended without."""
        self._outdated = False
        up: Up = asyncio.Queue()
        lost = asyncio.Event()
        hello = edge_pb2.EdgeHello(protocol=contract.VERSION, release=RELEASE, name=self.name)
        up.put_nowait(edge_pb2.EdgeUp(hello=hello))
        reading = asyncio.ensure_future(self._read(channel, up, lost.set))
        losing = asyncio.ensure_future(lost.wait())
        keeping = asyncio.ensure_future(self._keep(lost.set))
        try:
            await asyncio.wait((reading, losing), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            if self._leaving.is_set():
                up.put_nowait(edge_pb2.EdgeUp(goodbye=edge_pb2.EdgeGoodbye()))
            up.put_nowait(None)
            if self._leaving.is_set():  # the parent ends the stream when it has read that
                await asyncio.wait((reading,), timeout=_GOODBYE_S)
            for task in (reading, losing, keeping):
                task.cancel()
            await asyncio.gather(reading, losing, keeping, return_exceptions=True)

    async def _keep(self, lose: Callable[[], None]) -> None:
        if self.own is not None:
            await self.own.keep(self._opened)
            self._outdated = True
            lose()

    def _elsewhere(self) -> IncompatibleError:
        return IncompatibleError(
            f"{self._options.leader} takes no edges: give --leader where the leader listens for them "
            "(edges.listen; the file `edges` of its run folder), not where learners come"
        )

    async def _read(self, channel: aio.Channel, up: Up, lose: Callable[[], None]) -> leader_pb2.Stop | None:
        with failures_told(unknown=self._elsewhere):
            async for message in contract.JOIN.listen(channel, self._says(up)):
                if message.HasField("stop"):
                    if self._work is not None:
                        self._work.stop(message.stop.reason or "the run is over")
                    return message.stop
                if message.HasField("welcome"):
                    self._beat_s = message.welcome.heartbeat_s
                    self._work = await self._begin(message.welcome, up.put_nowait, lose)
                    up.put_nowait(edge_pb2.EdgeUp(beat=edge_pb2.EdgeBeat()))  # and so on from here
                elif self._work is None:
                    raise PayloadError("the parent did not begin with a welcome")
                else:
                    await self._work.heed(message)
                    if message.HasField("open"):
                        self._opened.set()
        return None

    async def _says(self, up: Up) -> AsyncIterator[edge_pb2.EdgeUp]:
        """What goes up, and a beat where nothing does."""
        while True:
            try:
                async with asyncio.timeout(self._beat_s if self._work is not None else None):
                    message = await up.get()
            except TimeoutError:
                message = edge_pb2.EdgeUp(beat=edge_pb2.EdgeBeat())
            if message is None:
                return
            yield message


async def until_signalled(work: Awaitable[object], leave: Callable[[], None]) -> int:
    """Await `work`, which ends soon once `leave` is called, as a signal does; the program's exit code."""
    received: list[int] = []

    def heed(number: signal.Signals) -> None:
        received.append(number)
        leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, heed, number)
    await work
    return 128 + received[0] if received else 0
