"""The edge program: join the parent, serve learners and edges below, join again when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from leader.aggregation.compiled_add import compile_add
from leader.config import HttpConfig, LimitsConfig, RunConfig
from leader.distributed import contract as edge_contract
from leader.distributed.hub import Hub
from leader.distributed.service import edge_handler
from leader.edge.identity import HOW
from leader.edge.joined import Joined
from leader.edge.link import Link
from leader.edge.models import Models, shared_model
from leader.edge.options import EdgeOptions
from leader.edge.parent import Parent, Say, until_signalled
from leader.edge.service import EdgeDesk, TicketHolders, refuse_call
from leader.rpc.server import serving
from leader.runtime import Host
from leader.services.cache import open_cache
from leader.trust.access.guard import Guard, Identifying
from leader.trust.access.listeners import Ports, SecurePorts
from leader.trust.identities.callers import Anybody, Caller, Callers
from leader.trust.identities.revocations import Revocations
from protos import edge_pb2, leader_pb2
from utils.errors import ConfigError, NotReadyError, UnreachableError, WireError
from utils.wire.contract import GET_MODEL
from utils.wire.rpc import SERVICE, is_any, own_host
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)


class App:
    """One edge, from its first Welcome to the parent's Stop."""

    def __init__(self, options: EdgeOptions) -> None:
        """Raises ConfigError or ForbiddenError; see Parent."""
        self._options = options
        self.parent = Parent(options, "edge", self._begin)
        if options.edges_listen and self.parent.own and not self.parent.own.parent_name:
            raise ConfigError(
                "--edges-listen: which certificates are edges' is known of those of the leader's own CA alone; "
                f"get one (there: {HOW}), or have all edges join the leader"
            )
        self._host = Host()
        self._link: Link | None = None
        self._say: Say = lambda message: None
        self.edges_address = ""  # where it listens for edges below
        self._served = ""  # HOST:PORT that learners are told
        self._urls: tuple[str, ...] = ()  # that those without gRPC are told
        self._terms: tuple[str, LimitsConfig] | None = None  # id and limits of the run that is served there
        self._stack = AsyncExitStack()
        self._revocations = Revocations()  # as they were told last, also while no leader is there
        self._guards: list[Guard] = []  # of its ports

    async def run(self) -> None:
        """Serve as long as there is work; see Parent.follow."""
        try:
            reason = await self.parent.follow()
            if reason and self._link is not None:
                self._link.hub.end(reason)
                await self._link.hub.dismissed()
        finally:
            await self._stack.aclose()
            self._host.arithmetic.shutdown(wait=False)

    async def _begin(self, welcome: edge_pb2.Welcome, say: Say, lose: Callable[[], None]) -> Link:
        joined, channel = Joined(welcome, self._options.kafka_properties), self.parent.channel
        assert channel is not None
        self._host.arithmetic.submit(compile_add, joined.layout.total)
        link = Link(joined, channel, say, self._host, lose, self._tell_addresses, self._revoked)
        if (terms := (welcome.run_id, joined.config.limits)) != self._terms:
            await self._stack.aclose()
            self._served, self._terms = await self._serve(joined), terms
        self._link, self._say = link, say
        self._tell_addresses()
        name, run_id = self.parent.name, welcome.run_id
        _log.info("joined run %s as edge %s; learners reach it at %s", run_id, name, self._served)
        return link

    def _tell_addresses(self) -> None:
        if self._link is not None:
            hub = self._link.hub
            addresses, urls = (self._served, *hub.addresses), (*self._urls, *hub.urls)
            self._say(edge_pb2.EdgeUp(serving=edge_pb2.Serving(addresses=addresses, urls=urls)))

    def _revoked(self, revocations: Revocations) -> None:
        self._revocations = revocations
        if self.parent.own is not None:
            self.parent.own.revocations = revocations
        for guard in self._guards:
            guard.review()

    # --- serving -------------------------------------------------------------------------------

    async def _serve(self, joined: Joined) -> str:
        """Listen for learners, and for edges below where that is asked for; the address that learners are told."""
        options, limits = self._options, joined.config.limits
        cache = open_cache("--redis-url", options.redis_url, joined.welcome.key)
        self._stack.push_async_callback(cache.close)
        most_bytes, run_id = 12 * joined.layout.total + (16 << 20), joined.welcome.run_id
        models = Models(partial(shared_model, cache, run_id, most_bytes, self._fetch), most_bytes)
        self._guards.clear()
        desk = EdgeDesk(joined, lambda: self._link, models, cache, lambda: self._revocations)
        self._stack.push_async_callback(desk.broken.close)
        ports = self._ports(joined.config, "--listen", desk)
        address = await self._stack.enter_async_context(
            serving(limits, options.listen, {SERVICE: desk.handler()}, ports)
        )
        if options.http_listen:
            self._urls = (await self._stack.enter_async_context(self._http(limits, desk, ports)),)
        if options.edges_listen:
            below = {
                SERVICE: desk.handler_below(),
                edge_contract.SERVICE: edge_handler(self._hub, refuse_call),
            }
            ports = self._ports(joined.config, "--edges-listen")
            self.edges_address = await self._stack.enter_async_context(
                serving(limits, options.edges_listen, below, ports)
            )
            _log.info("edges below reach this one at %s", self.edges_address)
        return options.advertise or reachable(address)

    @asynccontextmanager
    async def _http(self, limits: LimitsConfig, desk: EdgeDesk, ports: Ports) -> AsyncIterator[str]:
        """Listen for learners without gRPC; the URL that they are told. What they may do a ticket alone says."""
        # Imported here, so that an edge without it doesn't hold a web server's libraries.
        from leader.http.calls import Calls
        from leader.http.routes import Api
        from leader.http.server import serving_http

        guard = self._guard(TicketHolders(desk), limits, desk)
        guard.connections = ports.connections  # together no more than there may be
        options, own = self._options, self.parent.own
        shown = own.server_credentials if own else None
        app, config = Api(Calls(desk.handler(), guard)), HttpConfig(listen=options.http_listen)
        async with serving_http(config, limits, app, shown, ports.renewed, "--http-listen") as address:
            ports.connections.ports.add(int(address.rpartition(":")[2]))
            url = f"{'https' if own else 'http'}://{options.http_advertise or reachable(address)}"
            _log.info("learners without gRPC reach this edge at %s", url)
            yield url

    def _guard(self, callers: Identifying, limits: LimitsConfig, desk: EdgeDesk | None = None) -> Guard:
        guard = Guard(callers, limits, _refused)
        if desk is not None:
            guard.learners = lambda: desk.guests
        self._guards.append(guard)
        return guard

    def _ports(self, config: RunConfig, key: str, desk: EdgeDesk | None = None) -> Ports:
        """How it listens; where those of a PKI of one's own call, a ticket alone says what they may do."""
        own = self.parent.own
        identified = own is not None and own.parent_name
        anybody = TicketHolders(desk) if desk is not None else Anybody()
        callers: Identifying = Callers(own) if own is not None and identified else anybody
        guard = self._guard(callers, config.limits, desk)
        if own is None:
            return Ports(config, guard, key=key)
        return SecurePorts(config, guard, own.server_credentials, {}, own.renewed, key, alone=True)

    def _hub(self) -> Hub:
        if self._link is None or (self._link.over and not self._link.hub.over):
            raise NotReadyError("this edge has no leader at the moment; come again")
        return self._link.hub

    async def _fetch(self, version: int, have: int | None) -> AsyncIterator[bytes]:
        """A version from the parent, in framed messages; raises what it is refused with."""
        channel = self.parent.channel
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
    return await until_signalled(app.run(), app.parent.leave)


def run(options: EdgeOptions) -> int:
    """Run one edge; returns the exit code."""
    return asyncio.run(serve(options))
