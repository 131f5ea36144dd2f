"""Who is let in to one run, wired up: the folder of trust, the guard, the ports, and the watch over revocations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from leader.config import RunConfig
from leader.trust.access.guard import Guard, Refused
from leader.trust.access.listeners import SecurePorts
from leader.trust.audit.chain import Audit
from leader.trust.identities.authority import Authority
from leader.trust.identities.bearer import open_verifier
from leader.trust.identities.callers import Caller, Callers, Issuer
from leader.trust.identities.manager import Manager, TrustService
from leader.trust.identities.own_pki import OwnPki
from leader.trust.identities.revocations import Revocations
from protos import trust_pb2
from utils.errors import ConfigError, NotReadyError
from utils.trust import contract
from utils.trust.names import learner_tls_name
from utils.wire.rpc import channel_options

_LOOK_S = 0.2  # how often the folder is looked at for revocations


@dataclass(frozen=True)
class Invitation:
    """What new learners join a run with."""

    fleet: str
    folder: Path  # of trust
    made: bool  # whether the CA was made just now
    token: str = field(repr=False)
    until: float  # unix seconds


class Admission:
    """The trust of one run; raises ConfigError for a folder of trust that can't be used."""

    def __init__(self, config: RunConfig, refused: Refused) -> None:
        self._config = config.trust
        self.audit = Audit(config.trust.dir)
        self._authority = Authority(config.trust.dir, config.trust, self.audit.record)
        self.ca = self._authority.ca  # of the identities that it issues
        self._state = self._authority.state
        self._seen = self._state.read()
        self.revocations = self._seen.revocations
        #: Told of them when they have changed.
        self.revoked: Callable[[Revocations], None] = lambda revocations: None
        verify = open_verifier(config.trust)
        services = {contract.SERVICE: TrustService(self._authority, verify).handler()}
        issuer: Issuer = OwnPki(config.trust, self._state) if config.trust.certificate else self._authority
        self._check = issuer.check
        callers = Callers(issuer, verify)
        self.guard = Guard(callers, config.limits, refused)
        self.edge_guard = Guard(callers, config.limits, refused)
        own, renewed = issuer.server_credentials, callers.renewed
        self.credentials = own  # of a listener that begins to listen now
        self.ports = SecurePorts(config, self.guard, own, services, renewed)
        self.edge_ports = SecurePorts(
            config, self.edge_guard, own, services, renewed, "edges.listen", alone=True
        )

    def invite(self) -> Invitation | None:
        """A new join token for learners; None where a PKI of one's own says who they are."""
        if self._config.certificate:
            return None
        request = trust_pb2.TokenRequest(
            role="learner", uses=self._config.token_uses, hours=self._config.token_hours
        )
        token = Manager(self._authority).make_token(request)
        authority = self._authority
        return Invitation(authority.fleet, authority.folder, authority.made, token.text, token.until)

    def dial(self, address: str, caller: Caller) -> aio.Channel:
        """A channel to HOST:PORT, on which both ends prove who they are."""
        tls = self._authority.client_credentials().for_channel()
        options = (*channel_options(), ("grpc.ssl_target_name_override", learner_tls_name(caller.name)))
        return aio.secure_channel(f"dns:///{address}", tls, options=options)

    async def watch(self, turn_out: Callable[[Callable[[Caller], None]], None]) -> None:
        """End the calls of whoever is admitted no more, and have `turn_out` ask who that is, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(ConfigError, NotReadyError):  # each call is refused with it
                records = self._state.read()
                if records is not self._seen:
                    self.guard.review()
                    self.edge_guard.review()
                    turn_out(self._check)
                    self._seen = records
                    if records.revocations != self.revocations:
                        self.revocations = records.revocations
                        self.revoked(self.revocations)
