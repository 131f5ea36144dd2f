"""Leaders that serve TrustService and nothing else, behind their guard."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec

from grpc import aio

from leader.config import RunConfig
from leader.trust.access.listeners import SecurePorts
from leader.trust.identities.bearer import Verify, none_taken
from leader.trust.identities.callers import Caller
from leader.trust.identities.manager import TrustService
from tests.leader.trust.fleet import Fleet, connect
from utils.errors import WireError
from utils.wire.contract import Method
from utils.wire.status import failures_told

P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine, run to its end."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Leader:
    """A leader that serves TrustService alone, behind its guard."""

    def __init__(self, fleet: Fleet, address: str) -> None:
        self.fleet = fleet
        self.address = address
        self._noted: list[tuple[str, WireError, Caller]] = []
        self.guard = fleet.guard(RunConfig(), self._noted)

    @property
    def refused(self) -> list[tuple[str, str, str]]:
        """Method, class of the error and caller's role of each refusal."""
        return [(method, type(error).__name__, caller.role) for method, error, caller in self._noted]

    async def ask(self, who: Any, method: Method[Any, Any], request: Any) -> Any:
        """The answer to whoever holds `who`."""
        async with connect(self.address, who) as channel:
            with failures_told():
                return await method.ask(channel, request, 30)


@asynccontextmanager
async def leader_in(folder: Path, verify: Verify = none_taken) -> AsyncIterator[Leader]:
    """A leader whose folder of trust this is."""
    fleet, config = Fleet(folder), RunConfig()
    leader = Leader(fleet, "")
    service = TrustService(fleet.authority, verify)
    ports = SecurePorts(config, leader.guard, fleet.authority.server_credentials, {})
    server = aio.server(options=ports.options, interceptors=ports.interceptors)
    server.add_generic_rpc_handlers((service.handler(),))
    leader.address = f"127.0.0.1:{ports.open(server, '127.0.0.1:0')}"
    await server.start()
    try:
        yield leader
    finally:
        await server.stop(None)
