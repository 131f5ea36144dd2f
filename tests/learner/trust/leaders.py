"""A leader whose callers prove who they are: a real CA, guard and TLS around the handlers that a test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.access.listeners import SecurePorts
from leader.trust.identities.callers import caller_of
from leader.trust.identities.manager import Manager
from learner.options import LearnerOptions
from protos import trust_pb2
from tests.leader.trust.fleet import Fleet
from utils.trust.contract import ENROL, RENEW
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.status import refuse

TIMEOUT_S = 30.0


class SecureLeader:
    """Enrols, renews, and serves `handlers` to whom the guard lets in."""

    def __init__(self, folder: Path, *handlers: grpc.GenericRpcHandler, cert_hours: float = 720.0) -> None:
        trust = TrustConfig(mode="on", cert_hours=cert_hours)
        self.config = RunConfig(trust=trust, limits=LimitsConfig())
        self.fleet = Fleet(folder)
        self.fleet.authority._config = trust
        self.manager = Manager(self.fleet.authority)
        self.refused: list[Any] = []
        self.enrolled: list[trust_pb2.EnrolRequest] = []
        self.renewals = 0
        self.lost_answers = 0  # of how many enrolments the answer is yet to get lost
        self.address = ""
        self._guard = self.fleet.guard(self.config, self.refused)
        self._handlers = handlers

    def token(self, **said: Any) -> str:
        """A new join token."""
        request = trust_pb2.TokenRequest(**{"role": "learner", "hours": 1.0, **said})
        return self.manager.make_token(request).text

    def options(self, **given: Any) -> LearnerOptions:
        """Of a learner of this leader."""
        return LearnerOptions.model_validate({"leader": self.address, "device": "cpu", **given})

    async def _enrol(self, request: trust_pb2.EnrolRequest, context: Context) -> trust_pb2.Credential:
        self.enrolled.append(request)
        credential = self.fleet.authority.enrol(request)
        if self.lost_answers:
            self.lost_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return credential

    async def _renew(self, request: trust_pb2.RenewRequest, context: Context) -> trust_pb2.Credential:
        self.renewals += 1
        return self.fleet.authority.renew(request, caller_of(context))

    @asynccontextmanager
    async def serving(self, listen: str = "127.0.0.1:0") -> AsyncIterator[None]:
        """Listen, under a time limit."""
        ports = SecurePorts(self.config, self._guard, self.fleet.authority.server_credentials, {})
        server = aio.server(options=ports.options, interceptors=ports.interceptors)
        trust = contract.serve(
            {ENROL: self._enrol, RENEW: self._renew}, lambda name, context, why: refuse(context, why)
        )
        server.add_generic_rpc_handlers((trust, *self._handlers))
        self.address = f"127.0.0.1:{ports.open(server, listen)}"
        await server.start()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield
        finally:
            await server.stop(None)
