"""What an edge proves itself with, and how it knows the edges below it: by the CA that issued its own certificate."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from contextlib import suppress
from functools import partial

from cryptography import x509
from grpc import aio

from leader.edge.options import JoinOptions
from leader.trust.identities.callers import Caller
from leader.trust.identities.revocations import Revocations
from utils.errors import ConfigError, ForbiddenError, UnreachableError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.identity import EDGES, chosen
from utils.trust.membership import Membership, door_of, enrol, read_token, renew, replaced, stranger
from utils.trust.names import EDGE, EDGE_TLS_NAME, TLS_NAME
from utils.trust.token import JoinToken
from utils.wire.rpc import channel_options

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # how often it is looked at what is to be shown
#: What gives an edge its token, at the leader.
HOW = "python -m leader.trust token --role aggregator"


class EdgeIdentity:
    """What is shown and trusted, which may be replaced; an Issuer, of identities of the same CA."""

    door = b""
    #: That the parent's certificate must have; "" = the host that is dialled.
    parent_name = EDGE_TLS_NAME
    credentials: Credentials  # once it is ready

    def __init__(self, options: JoinOptions) -> None:
        self._options = options
        self.revocations = Revocations()  # as the parent has told them last

    async def ready(self) -> Credentials:
        """What a channel can show now; raises what a leader refuses with, and ConfigError."""
        return self.credentials

    def mends(self, shown: Credentials) -> bool:
        """The parent refuses what was shown; whether there may be other things to show, once it is ready again."""
        return self.credentials != shown

    async def keep(self, moment: asyncio.Event) -> None:
        """Returns when another channel should take the last one's place, at such a moment if one comes in time."""
        await replaced(*self._life(), partial(self._renewed, self.credentials), moment)

    async def renewed(self) -> None:
        """See Issuer: when what is shown has been replaced."""
        shown = self.credentials
        while self.credentials == shown:
            await asyncio.sleep(_LOOK_S)
            self._look()

    def _life(self) -> tuple[float, float]:
        """Half and end of the certificate's life, unix seconds."""
        own = pki.from_pem(self.credentials.certificate)
        return pki.half_of(own), pki.ends_at(own)

    async def _renewed(self, shown: Credentials) -> bool:
        """Whether there is something newer than what was `shown`, for which the leader may be asked."""
        self._look()
        return self.credentials != shown

    def _look(self) -> None:
        """Take what may have been replaced on disk."""

    def server_credentials(self) -> Credentials:
        """See Issuer."""
        return self.credentials

    def holder(self, certificate: x509.Certificate) -> tuple[str, str]:
        """See Issuer."""
        identity = pki.identity_of(certificate, pki.from_pem(self.credentials.roots))
        return identity.name, identity.role

    def check(self, caller: Caller) -> None:
        """See Issuer."""
        self.revocations.check(caller.name, caller.serial)

    def close(self) -> None:
        """Let go of what is held."""


class Files(EdgeIdentity):
    """In files that others replace, of the leader's own CA or of another; as they were read last."""

    def __init__(self, options: JoinOptions) -> None:
        """Raises ConfigError for files that can't be used, ForbiddenError for a certificate of another role."""
        super().__init__(options)
        self._told = ""
        self.credentials = self._read()
        own = pki.from_pem(self.credentials.certificate, "--certificate")
        try:
            role = pki.identity_of(own, pki.from_pem(self.credentials.roots, "--ca")).role
        except ForbiddenError:  # of a PKI of one's own, whose rules the leader has
            role = self.parent_name = ""
        _check_role(role, "--certificate")

    def _read(self) -> Credentials:
        files = [path for path in (self._options.key, self._options.certificate, self._options.ca) if path]
        try:
            read = Credentials(*(path.read_bytes() for path in files))
            ssl.create_default_context().load_cert_chain(files[1], files[0], password="")
        except OSError as error:  # those of ssl too
            raise ConfigError(f"--certificate, --key, --ca: {error}") from None
        return read

    def _look(self) -> None:
        """See EdgeIdentity; the old ones count until the new ones fit together."""
        try:
            self.credentials = self._read()
        except ConfigError as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("the old certificate stays in use: %s", self._told)


class Enrolled(EdgeIdentity):
    """By an identity of this machine, which joins by a token where it has to, and is renewed."""

    def __init__(self, options: JoinOptions, member: Membership) -> None:
        super().__init__(options)
        self._member = member
        self._identity = member.identity
        self._leader = options.join_leader or options.leader  # which certifies

    async def ready(self) -> Credentials:
        """See EdgeIdentity."""
        if token := self._member.due:
            await self._join(token)
        if not self._identity.valid:
            raise ForbiddenError(
                f"the certificate in {self._identity.folder} has ended; join again (there: {HOW})"
            )
        self.credentials = self._identity.credentials
        if self._identity.renew_at <= time.time():  # it may end before there is time for that again
            with suppress(ForbiddenError):  # whoever joins is told that too, and what may mend it
                await self._renewed(self.credentials)
        own = pki.identity_of(
            pki.from_pem(self.credentials.certificate), pki.from_pem(self.credentials.roots)
        )
        _check_role(own.role, f"the identity in {self._identity.folder}")
        self._identity.remember(self._options.leader)
        return self.credentials

    async def _join(self, token: JoinToken) -> None:
        request = self._member.request(token, name=self._options.name, serves=True, role=EDGE)
        try:
            credential = await enrol(self._dial_leader(door_of(token)), request)
        except UnreachableError as error:
            raise stranger(error, self._leader, "token") or error from None
        self._member.joined(credential, token)

    def mends(self, shown: Credentials) -> bool:
        """See EdgeIdentity."""
        return super().mends(shown) or self._member.mends()

    def _life(self) -> tuple[float, float]:
        return self._identity.renew_at, self._identity.ends_at

    async def _renewed(self, shown: Credentials) -> bool:
        async with self._dial_leader(shown) as leader:
            await renew(self._identity, leader, serves=True)
        self.credentials = self._identity.credentials
        return True

    def _dial_leader(self, shown: Credentials) -> aio.Channel:
        return channel_to(self._leader, shown, TLS_NAME)

    def close(self) -> None:
        """Let other processes have the identity."""
        self._identity.close()


def _check_role(role: str, what: str) -> None:
    if role not in ("", EDGE):
        raise ForbiddenError(f"{what} is of role {role}; get one of role {EDGE} (there: {HOW})")


def channel_to(address: str, shown: Credentials | None, name: str = "") -> aio.Channel:
    """A channel of its own to HOST:PORT, in the clear without credentials; "" = the host must be the certificate's."""
    options: tuple[tuple[str, int | str], ...] = (*channel_options(), ("grpc.use_local_subchannel_pool", 1))
    if shown is None:
        return aio.insecure_channel(address, options=options)
    if name:
        options = (*options, ("grpc.ssl_target_name_override", name))
    return aio.secure_channel(address, shown.for_channel(), options=options)


def choose(options: JoinOptions) -> EdgeIdentity | None:
    """What is asked for, or what this machine has kept; None = in the clear. Raises ConfigError or ForbiddenError."""
    if options.insecure:
        return None
    if options.certificate:
        return Files(options)
    token = read_token(options.join.get_secret_value()) if options.join else None
    identity = chosen(options.leader, options.identity, token, options.name, EDGES)
    return Enrolled(options, Membership(identity, token)) if identity else None
