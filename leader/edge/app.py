"""The edge program: join the parent, serve learners and edges below, join again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack

from grpc import aio

from leader.config import RunConfig
from leader.distributed import contract as edge_contract
from leader.distributed.hub import Hub
from leader.distributed.service import edge_handler
from leader.edge.identity import HOW, EdgeIdentity
from leader.edge.joined import Joined
from leader.edge.link import Link
from leader.edge.models import Models
from leader.edge.options import EdgeOptions
from leader.edge.service import EdgeDesk, refuse_call
from leader.rpc.server import serving
from leader.runtime import Host
from leader.trust.callers import Anybody, Caller, Callers
from leader.trust.guard import Guard, Identifying
from leader.trust.listeners import Ports, SecurePorts
from protos import edge_pb2, leader_pb2
from utils.errors import (
    BusyError,
    ForbiddenError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnreachableError,
    WireError,
)
from utils.version import RELEASE
from utils.wire.contract import GET_MODEL
from utils.wire.patience import Patience
from utils.wire.rpc import SERVICE, channel_options, is_any, is_loopback, own_host
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)
_MENDABLE = (UnreachableError, NotReadyError, StalledError, BusyError, PayloadError)


class App:
    """One edge, from its first Welcome to the parent's Stop."""

    def __init__(self, options: EdgeOptions) -> None:
        """Raises ConfigError."""
        self._options = options
        self._own = EdgeIdentity(options) if options.certificate else None
        self._name = options.name or socket.gethostname()
        self._host = Host()
        self._link: Link | None = None
        self._channel: aio.Channel | None = None
        self.edges_address = ""  # where it listens for edges below
        self._served = ""  # HOST:PORT that learners are told
        self._run_id = ""  # of the run that is served there
        self._broken = asyncio.Event()  # the link can't go on
        self._stack = AsyncExitStack()
        self._leaving = asyncio.Event()
        self._up: asyncio.Queue[edge_pb2.EdgeUp | None] = asyncio.Queue()
        if not (self._own or options.insecure or is_loopback(options.leader)):
            raise ForbiddenError(
                f"{options.leader} is another machine: prove who this edge is with --certificate, --key and --ca "
                f"(there: {HOW}), or say --insecure"
            )

    def leave(self) -> None:
        """End."""
        self._leaving.set()

    async def run(self) -> None:
        """Serve until the parent says stop, or `leave` is called.

        Raises UnreachableError when the parent stays away for too long, and what a new stream can't mend.
        """
        patience = Patience(self._options.connect_timeout_s, "edge")
        following = asyncio.ensure_future(self._follow(patience))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((following, leaving), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, leaving):
                task.cancel()
            await asyncio.gather(following, leaving, return_exceptions=True)
            await self._stack.aclose()
            self._host.arithmetic.shutdown(wait=False)

    async def _follow(self, patience: Patience) -> None:
        while True:
            try:
                async with self._dial() as self._channel:
                    try:
                        stop = await self._join(self._channel)
                    finally:
                        if self._link is not None:
                            self._link.end()
                            patience = Patience(self._options.reconnect_timeout_s, "edge")
                        self._link = None
                if stop is not None:
                    _log.info("the leader says stop: %s", stop.reason)
                    return
                problem, least_s = "it closed the stream", 0.0
            except _MENDABLE as error:
                problem, least_s = str(error), error.retry_after_s if isinstance(error, BusyError) else 0.0
            await asyncio.sleep(patience.next_wait(self._options.leader, problem, least_s))

    def _dial(self) -> aio.Channel:
        options: tuple[tuple[str, int | str], ...] = (
            *channel_options(),
            ("grpc.use_local_subchannel_pool", 1),
        )
        if self._own is None:
            return aio.insecure_channel(self._options.leader, options=options)
        if name := self._own.parent_name:
            options = (*options, ("grpc.ssl_target_name_override", name))
        return aio.secure_channel(self._options.leader, self._own.credentials.for_channel(), options=options)

    async def _join(self, channel: aio.Channel) -> leader_pb2.Stop | None:
        """One stream, from its beginning to its end; the parent's Stop, or None if it ended without."""
        self._up, self._broken = asyncio.Queue(), asyncio.Event()
        hello = edge_pb2.EdgeHello(protocol=edge_contract.VERSION, release=RELEASE, name=self._name)
        self._up.put_nowait(edge_pb2.EdgeUp(hello=hello))
        reading = asyncio.ensure_future(self._read(channel))
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait((reading, broken), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            self._up.put_nowait(None)
            for task in (reading, broken):
                task.cancel()
            await asyncio.gather(reading, broken, return_exceptions=True)

    async def _read(self, channel: aio.Channel) -> leader_pb2.Stop | None:
        with failures_told():
            async for message in edge_contract.JOIN.listen(channel, self._says(self._up)):
                if message.HasField("stop"):
                    if self._link is not None:
                        self._link.hub.end(message.stop.reason or "the run is over")
                    return message.stop
                if message.HasField("welcome"):
                    await self._welcomed(Joined(message.welcome), channel)
                elif self._link is None:
                    raise PayloadError("the parent did not begin with a welcome")
                else:
                    await self._link.heed(message)
        return None

    async def _says(self, up: asyncio.Queue[edge_pb2.EdgeUp | None]) -> AsyncIterator[edge_pb2.EdgeUp]:
        """What goes up, and a beat where nothing does."""
        while True:
            beat_s = self._link.joined.welcome.heartbeat_s if self._link is not None else None
            try:
                async with asyncio.timeout(beat_s):
                    message = await up.get()
            except TimeoutError:
                message = edge_pb2.EdgeUp(beat=edge_pb2.EdgeBeat())
            if message is None:
                return
            yield message

    async def _welcomed(self, joined: Joined, channel: aio.Channel) -> None:
        up, run_id = self._up, joined.welcome.run_id
        link = Link(joined, channel, up.put_nowait, self._host, self._broken.set, self._tell_addresses)
        if run_id != self._run_id:
            await self._stack.aclose()
            self._served, self._run_id = await self._serve(joined), run_id
        self._link = link
        self._tell_addresses()
        _log.info("joined run %s as edge %s; learners reach it at %s", run_id, self._name, self._served)

    def _tell_addresses(self) -> None:
        if self._link is not None:
            addresses = (self._served, *self._link.hub.addresses)
            self._up.put_nowait(edge_pb2.EdgeUp(serving=edge_pb2.Serving(addresses=addresses)))

    # --- serving -------------------------------------------------------------------------------

    async def _serve(self, joined: Joined) -> str:
        """Listen for learners, and for edges below where that is asked for; the address that learners are told."""
        options, limits = self._options, joined.config.limits
        models = Models(self._fetch, 12 * joined.layout.total + (16 << 20))
        desk = EdgeDesk(joined, lambda: self._link, models)
        ports = self._ports(joined.config, "--listen", lambda: desk.guests)
        address = await self._stack.enter_async_context(
            serving(limits, options.listen, {SERVICE: desk.handler()}, ports)
        )
        if options.edges_listen:
            below = {
                SERVICE: desk.handler_below(),
                edge_contract.SERVICE: edge_handler(self._hub, refuse_call),
            }
            ports = self._ports(joined.config, "--edges-listen", frozenset)
            self.edges_address = await self._stack.enter_async_context(
                serving(limits, options.edges_listen, below, ports)
            )
            _log.info("edges below reach this one at %s", self.edges_address)
        return options.advertise or reachable(address)

    def _ports(self, config: RunConfig, key: str, guests: Callable[[], Collection[str]]) -> Ports:
        """How it listens; where those of a PKI of one's own call, a ticket alone says what they may do."""
        own = self._own
        identified = own is not None and own.parent_name
        callers: Identifying = Callers(own) if own is not None and identified else Anybody()
        guard = Guard(callers, config.limits, _refused)
        guard.learners = guests
        if own is None:
            return Ports(config, guard, key=key)
        return SecurePorts(config, guard, own.server_credentials, {}, own.renewed, key, alone=True)

    def _hub(self) -> Hub:
        if self._link is None:
            raise NotReadyError("this edge has no leader at the moment; come again")
        return self._link.hub

    async def _fetch(self, version: int, have: int | None) -> AsyncIterator[bytes]:
        """A version from the parent, in framed messages; raises what it is refused with."""
        channel = self._channel
        if channel is None:
            raise NotReadyError("this edge has no leader at the moment; go to another, or to the leader")
        request = leader_pb2.Empty(version=version, have=have)
        try:
            with failures_told():
                async for message in GET_MODEL.open(channel, request):
                    GET_MODEL.told.read(message)  # raises PayloadError for what is no chunk
                    yield message
        except UnreachableError as error:
            raise NotReadyError(f"this edge does not reach its leader: {error}; go elsewhere") from None


def _refused(method: str, error: WireError, caller: Caller) -> None:
    _log.debug("%s of %s is refused: %s", method, caller.place, error)


def reachable(address: str) -> str:
    """HOST:PORT as others reach what listens there."""
    host, _, port = address.rpartition(":")
    return f"{own_host()}:{port}" if is_any(host) else address


async def serve(options: EdgeOptions) -> int:
    """Run one edge until the leader says stop or a signal comes; returns the exit code. Raises FlockstepError."""
    app = App(options)
    received: list[int] = []

    def leave(number: signal.Signals) -> None:
        received.append(number)
        app.leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, leave, number)
    await app.run()
    return 128 + received[0] if received else 0


def run(options: EdgeOptions) -> int:
    """Run one edge; returns the exit code."""
    return asyncio.run(serve(options))
