"""A CA in a temporary folder, those whom it admitted, and a server that they call with what they hold."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import aio
from grpc_health.v1 import health, health_pb2

from leader.config import RunConfig, TrustConfig
from leader.trust.access.guard import Guard
from leader.trust.access.listeners import SecurePorts
from leader.trust.identities.authority import Applicant, Authority
from leader.trust.identities.bearer import Verify, none_taken
from leader.trust.identities.callers import Caller, Callers
from leader.trust.identities.manager import Manager
from protos import leader_pb2, trust_pb2
from utils.errors import FlockstepError, WireError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME, Identity
from utils.trust.token import door_credentials
from utils.wire import contract
from utils.wire.contract import Call, Method
from utils.wire.status import failures_told, refuse

ALONE = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", TLS_NAME))

TIMEOUT_S = 30.0
Metadata = tuple[tuple[str, str], ...]


class Fleet:
    """The leader's folder of trust, and whoever is to call it."""

    def __init__(self, folder: Path, config: TrustConfig | None = None) -> None:
        self.authority = Authority(folder, config or TrustConfig())
        self.roots = pki.to_pem(self.authority.ca)

    def admit(
        self, name: str, role: str = "learner", hours: float = 1.0, *, serves: bool = False
    ) -> Credentials:
        """Somebody new."""
        key = pki.new_key()
        applicant = Applicant(
            name, role, key.public_key(), by="a test", replace=True, hours=hours, serves=serves
        )
        given = self.authority.issue(applicant)
        return self._held(key, x509.load_der_x509_certificate(given.certificate))

    def signed(self, identity: Identity, until: float | None = None) -> Credentials:
        """A certificate of our CA that is not in the records."""
        key, now = pki.new_key(), time.time()
        certificate = pki.issue(
            self.authority.ca,
            self.authority._key,
            key.public_key(),
            identity,
            until=now + 60 if until is None else until,
            now=now,
        )
        return self._held(key, certificate)

    def door(self) -> Credentials:
        """What every join token opens TLS with."""
        certificate, key = door_credentials(self.authority._door)
        return self._held(key, certificate)

    def revoke(self, name: str) -> None:
        """Turn somebody out."""
        Manager(self.authority).revoke(trust_pb2.RevokeRequest(name=name))

    def _held(self, key: pki.Key, certificate: x509.Certificate) -> Credentials:
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), self.roots)

    def guard(
        self,
        config: RunConfig,
        refused: list[tuple[str, WireError, Caller]] | None = None,
        verify: Verify = none_taken,
    ) -> Guard:
        """The guard of a run with this CA, which notes what it refused."""
        noted = [] if refused is None else refused
        callers = Callers(self.authority, verify)
        return Guard(callers, config.limits, lambda *what: noted.append(what))

    @asynccontextmanager
    async def serving(
        self,
        calls: Mapping[Method[Any, Any], Call],
        guard: Guard,
        config: RunConfig,
        services: Mapping[str, grpc.GenericRpcHandler] = {},
    ) -> AsyncIterator[str]:
        """A server of these methods, and of more services, behind `guard`; gives its address."""
        ports = SecurePorts(config, guard, self.authority.server_credentials, services)
        server = aio.server(options=ports.options, interceptors=ports.interceptors)
        handler = contract.serve(calls, lambda name, context, why: refuse(context, why))
        server.add_generic_rpc_handlers((handler, *ports.services.values()))
        port = ports.open(server, "127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


def connect(address: str, credentials: Credentials) -> aio.Channel:
    """A channel of its own with what somebody holds."""
    return aio.secure_channel(address, credentials.for_channel(), options=ALONE)


def held_by(key: pki.Key, given: trust_pb2.Credential) -> Credentials:
    """What the owner of a key holds who was given this."""
    certificate, root = (x509.load_der_x509_certificate(der) for der in (given.certificate, given.roots[0]))
    return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), pki.to_pem(root))


async def ask(channel: aio.Channel, metadata: Metadata = (), token: bytes = b"") -> None:
    """Ask for work, of a leader that may refuse it."""
    request = leader_pb2.WorkRequest(token=token)
    with failures_told():
        await contract.GET_WORK.open(channel, request, timeout=TIMEOUT_S, metadata=metadata)


async def refusal(channel: aio.Channel, metadata: Metadata = (), token: bytes = b"") -> FlockstepError:
    """What asking for work is refused with."""
    with pytest.raises(FlockstepError) as caught:
        await ask(channel, metadata, token)
    return caught.value


def watch(channel: aio.Channel, timeout: float, metadata: Metadata = ()) -> Any:
    """A stream of answers that stays open as long as its caller counts."""
    path = f"/{health.SERVICE_NAME}/Watch"
    call = channel.unary_stream(
        path, health_pb2.HealthCheckRequest.SerializeToString, health_pb2.HealthCheckResponse.FromString
    )
    return call(health_pb2.HealthCheckRequest(), timeout=timeout, metadata=metadata)
