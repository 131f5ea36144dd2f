"""Access to the leader: in the clear, with files of a PKI of one's own, or by an identity that joined."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from functools import partial

from grpc import aio

from learner.options import LearnerOptions
from learner.trust.channel import (
    CA_FILE,
    check_span,
    explained,
    mismatch,
    open_channel,
    open_to_edge,
    speaks_tls,
)
from learner.trust.join import join_by_jwt, join_by_token, name_in_jwt, read_jwt
from protos import leader_pb2
from utils.errors import ConfigError, FlockstepError, ForbiddenError, NotReadyError, UnreachableError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.identity import Identity, chosen, of_fleet
from utils.trust.membership import Membership, read_token, renew, replaced
from utils.trust.names import EDGE_TLS_NAME, LEADER
from utils.trust.token import JoinToken
from utils.wire.contract import Context
from utils.wire.rpc import is_loopback


class Access:
    """In the clear, to a leader on this machine or where that is meant; it proves nothing and keeps nothing."""

    credentials: Credentials | None = None  # of the last channel, for a server of this learner's too
    renewed = False  # whether the next channel will have others
    known_by = ""  # what tells the leader from others
    enrolled = False  # whether its credentials are an identity of the leader's own CA

    def __init__(self, options: LearnerOptions) -> None:
        self._options = options
        self._ordered = asyncio.Event()

    async def open(self) -> aio.Channel:
        """A channel on which a registration can begin.

        Raises ForbiddenError or ConfigError where there can be none, UnreachableError or BusyError if there is
        none now.
        """
        leader = self._options.leader
        if not (self._options.insecure or is_loopback(leader)):
            tls = await speaks_tls(leader)
            raise (
                UnreachableError(f"nothing answers at {leader}") if tls is None else mismatch(leader, tls=tls)
            )
        return open_channel(self._options)

    def dial(self, address: str) -> aio.Channel:
        """A channel to an edge of the leader, at HOST:PORT, with what the last channel to the leader shows.

        Raises ForbiddenError where there can be none.
        """
        if not (self._options.insecure or is_loopback(address)):
            raise ForbiddenError(
                f"{address} is another machine; if that is meant in the clear, add --insecure"
            )
        return open_to_edge(self._options, None, "", address)

    async def explain(self, error: FlockstepError) -> FlockstepError:
        """What the failure of a registration tells a person."""
        return await explained(error, self._options.leader, self.known_by)

    async def keep(self, channel: aio.Channel) -> None:
        """Renew what the channel shows; returns when another one should take its place."""
        await asyncio.Event().wait()

    def outdated(self) -> bool:
        """Whether the last channel shows what has been replaced since."""
        return False

    def admit(self, context: Context) -> None:
        """Raise ForbiddenError unless a call of this learner's server may be the leader's."""

    def committed(self, told: leader_pb2.Committed) -> None:
        """A round is on the leader's disk."""

    def ordered(self) -> None:
        """The leader has given work: the run goes on, and a channel whose time has come may end here."""
        self._ordered.set()

    def close(self) -> None:
        """Let go of what is held."""


class Certified(Access, ABC):
    """By a certificate, which may be replaced from half its life on."""

    async def _keep(self, channel: aio.Channel, half: float, end: float) -> None:
        """See Access.keep: that is with the next order, or shortly before the old certificate ends.

        Args:
            half, end: of the certificate's life; unix seconds.
        """
        # No commit is waited for: after the last one there is nobody to come back to.
        await replaced(half, end, partial(self._renew, channel), self._ordered)
        self.renewed = True

    @abstractmethod
    async def _renew(self, channel: aio.Channel) -> bool:
        """Get a newer certificate; False if there is none yet, and what it raises may pass."""


class Files(Certified):
    """With a certificate of a PKI of one's own; its files are read anew for each channel."""

    known_by = CA_FILE

    async def open(self) -> aio.Channel:
        """See Access."""
        self.renewed, self._shown = False, self._read()
        check_span(pki.from_pem(self._shown.certificate), "get a new one from where it came from")
        return open_channel(self._options, self._shown.for_channel(), "")

    def dial(self, address: str) -> aio.Channel:
        """See Access; --server-name is the leader's alone."""
        return open_to_edge(self._options, self._shown.for_channel(), "", address)

    def _read(self) -> Credentials:
        options = self._options
        try:
            files = (path for path in (options.key, options.certificate, options.ca) if path)
            own = Credentials(*(path.read_bytes() for path in files))
            ssl.create_default_context().load_cert_chain(options.certificate or "", options.key, password="")
        except OSError as error:  # those of ssl too
            raise ConfigError(f"--certificate, --key, --ca: {error}") from None
        return own

    async def keep(self, channel: aio.Channel) -> None:
        """See Access; the files have been replaced by then."""
        certificate = pki.from_pem(self._shown.certificate)
        await self._keep(channel, pki.half_of(certificate), pki.ends_at(certificate))

    def outdated(self) -> bool:
        """See Access."""
        return self._read() != self._shown

    async def _renew(self, channel: aio.Channel) -> bool:
        return self.outdated()


class Enrolled(Certified):
    """By an identity of the leader's own CA, which joins first where it has not, and is renewed."""

    known_by = "identity"
    enrolled = True

    def __init__(self, options: LearnerOptions, identity: Identity, token: JoinToken | None) -> None:
        super().__init__(options)
        self._identity = identity
        self._member = Membership(identity, token)

    async def open(self) -> aio.Channel:
        """See Access."""
        identity, options = self._identity, self._options
        self._show()
        if token := self._member.due:
            await join_by_token(options, self._member, token)
            self._show()
        elif options.jwt_file and not identity.valid:
            await join_by_jwt(options, identity)
            self._show()
        assert identity.certificate
        check_span(identity.certificate, "join again with a new token")
        identity.remember(options.leader)
        if options.network_addr and not identity.serves:
            async with open_channel(options, identity.credentials.for_channel()) as channel:
                await self._renew(channel)
            self._show()
        assert self.credentials
        return open_channel(options, self.credentials.for_channel())

    def dial(self, address: str) -> aio.Channel:
        """See Access."""
        assert self.credentials
        return open_to_edge(self._options, self.credentials.for_channel(), EDGE_TLS_NAME, address)

    def _show(self) -> None:
        """The newest that the identity has counts from now on, or the lack of it."""
        self.credentials = self._identity.credentials if self._identity.certificate else None
        self.renewed = False

    async def explain(self, error: FlockstepError) -> FlockstepError:
        """See Access; if the leader has forgotten the identity, its key may join again by a token that is left."""
        if isinstance(error, ForbiddenError) and self._member.mends():
            return NotReadyError(str(error))
        return await super().explain(error)

    async def keep(self, channel: aio.Channel) -> None:
        """See Access."""
        await self._keep(channel, self._identity.renew_at, self._identity.ends_at)

    def outdated(self) -> bool:
        """See Access."""
        return self.credentials is not None and self.credentials != self._identity.credentials

    async def _renew(self, channel: aio.Channel) -> bool:
        options = self._options
        await renew(self._identity, channel, serves=bool(options.network_addr), jwt=read_jwt(options))
        return True

    def admit(self, context: Context) -> None:
        """See Access."""
        shown = {name: b"".join(values) for name, values in context.auth_context().items()}
        ca = pki.from_pem(self.credentials.roots if self.credentials else b"")
        caller = pki.identity_of(pki.from_pem(shown["x509_pem_cert"]), ca)
        if caller.role != LEADER or shown["ssl_tls_version"] != b"TLSv1.3":
            raise ForbiddenError(
                f"{caller.name} ({caller.role}) may not call a learner, its leader alone may"
            )

    def committed(self, told: leader_pb2.Committed) -> None:
        """Bear witness to the leader's audit chain."""
        self._identity.witness(told.audit_number, told.audit_head)

    def close(self) -> None:
        """Let other processes have the identity."""
        self._identity.close()


def choose(options: LearnerOptions) -> Access:
    """The access that is asked for, or that this machine has kept; raises ConfigError or ForbiddenError."""
    if options.insecure:
        return Access(options)
    if options.certificate:
        return Files(options)
    token = read_token(options.join.get_secret_value()) if options.join else None
    if identity := _identity(options, token):
        return Enrolled(options, identity, token)
    return Access(options)


def _identity(options: LearnerOptions, token: JoinToken | None) -> Identity | None:
    by_jwt = options.jwt_file is not None
    name = options.name or (name_in_jwt(options) if by_jwt and not token else "")
    known = chosen(options.leader, options.identity, token, name, joins=by_jwt)
    return known or (of_fleet("jwt", options.name) if by_jwt else None)
