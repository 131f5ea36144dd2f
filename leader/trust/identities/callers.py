"""Who is calling: what each call is checked, limited, counted and remembered by."""

from __future__ import annotations

import math
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from cryptography import x509

from leader.trust.identities.bearer import Verify, none_taken
from leader.trust.identities.state import Records, TrustState
from utils.errors import ConfigError, EndedError, ForbiddenError, NotReadyError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.wire.contract import Context

#: Roles of callers that have no identity: with a join token's certificate or none at all, or on `trust.plain_listen`.
DOOR, PLAIN = "door", "plain"
GATEWAY = "gateway"
_CACHED = 4096  # certificates that are read once
_TLS = b"TLSv1.3"
#: What a gateway says of a caller behind it: its certificate, and the address that it came from.
CERTIFICATE = "x-forwarded-client-cert"
_ADDRESS = "x-forwarded-for"
#: One element of the header, with the certificate as percent-encoded PEM; a comma would begin another element.
_ELEMENT = re.compile(r'(?:\w+=[^",;]*;)*Cert="([^",;]+)"(?:;\w+=[^",;]*)*')


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of one call."""

    name: str  # of its identity; "" = it has none, as in a run without trust
    role: str  # of utils.trust.names.ROLES, or DOOR or PLAIN; "" = it has no identity
    address: str  # host that the call comes from; behind a gateway the one that the gateway saw
    place: str  # tells callers apart: the identity's name, else the connection
    until: float = math.inf  # unix seconds at which its certificate or token ends
    serial: int = 0  # of its certificate; 0 = it has none
    serves: bool = False  # whether its certificate is one to be dialled with
    gateway: Caller | None = None  # that carries its call

    @property
    def known(self) -> bool:
        """Whether it has proven an identity."""
        return bool(self.name)

    @property
    def bearer(self) -> bool:
        """Whether it has proven that by a JWT."""
        return self.known and not self.serial


#: Set by the guard around each call of a run with trust.
_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller_of(context: Context) -> Caller:
    """Who makes this call; without a guard, all that is known is the connection."""
    found = _CALLER.get(None)
    return found or anonymous(context.peer())


def anonymous(peer: str, role: str = "") -> Caller:
    """A caller of whom only the gRPC peer is known."""
    return Caller("", role, host_of(peer), peer)


def host_of(peer: str) -> str:
    """The host in a gRPC peer such as ipv4:10.0.0.1:4711 or ipv6:[::1]:4711."""
    return peer.partition(":")[2].rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")


class Anybody:
    """Callers of a run without trust: each connection is one, and may call whatever there is."""

    identified = False

    async def of(self, context: Context) -> Caller:
        """The caller of one call."""
        return anonymous(context.peer())

    def check(self, caller: Caller) -> None:
        """Nobody's certificate ends."""

    def carries(self, context: Context) -> bool:
        """A connection is nobody's gateway."""
        return False


class Issuer(Protocol):
    """What vouches for certificates: the run's own CA, or rules about those of another PKI."""

    door: bytes  # PEM of the certificate that join tokens open TLS with; b"" = none

    def server_credentials(self) -> Credentials:
        """Of a server that begins to listen now."""
        ...

    def holder(self, certificate: x509.Certificate) -> tuple[str, str]:
        """Name and role of whom a certificate is of; raises ForbiddenError."""
        ...

    def check(self, caller: Caller) -> None:
        """Raises ForbiddenError where an identity was revoked or replaced; costs next to nothing."""
        ...

    async def renewed(self) -> None:
        """Returns when it vouches for others, and the leader has another certificate; all are to connect again."""
        ...


def read_records(state: TrustState) -> Records:
    """Who was admitted and revoked; raises NotReadyError where that can't be read."""
    try:
        return state.read()
    except ConfigError as error:  # somebody edited it by hand: until it is mended nobody is let in
        raise NotReadyError(f"it is not known who was admitted: {error}") from None


class Callers:
    """Finds out whose call it is, by what the connection has proven."""

    identified = True

    def __init__(self, issuer: Issuer, verify: Verify = none_taken) -> None:
        self._issuer = issuer
        self._door = issuer.door.strip()
        self._verify = verify
        self._read = lru_cache(_CACHED)(self._read_certificate)

    async def of(self, context: Context) -> Caller:
        """The caller of one call; raises ForbiddenError where it is nobody who may call."""
        auth, peer = context.auth_context(), context.peer()
        if not auth.get("ssl_tls_version"):  # only trust.plain_listen takes connections without TLS
            return anonymous(peer, PLAIN)
        if list(auth["ssl_tls_version"]) != [_TLS]:
            raise ForbiddenError("this leader speaks TLS 1.3 alone; update gRPC there")
        certificates = auth.get("x509_pem_cert")
        if not certificates:  # trust.jwt_listen asks for none
            return await self._by_jwt(context, host_of(peer))
        (pem,) = certificates
        caller = self._by_certificate(pem, host_of(peer), peer)
        forwarded = header_of(context, CERTIFICATE)
        if caller.role == GATEWAY:
            return await self._carried(context, caller, forwarded)
        if forwarded is not None:
            raise ForbiddenError(f"{CERTIFICATE} is a gateway's word, and this caller is none; leave it out")
        return caller

    async def _carried(self, context: Context, gateway: Caller, forwarded: str | None) -> Caller:
        """The caller for whom a gateway makes a call; it counts as long as both do."""
        # The gateway's word, which comes last.
        address = (header_of(context, _ADDRESS) or "").rpartition(",")[2].strip() or gateway.address
        if forwarded is None:
            caller = await self._by_jwt(context, address)
        else:
            caller = self._by_certificate(certificate_in(forwarded), address, f"{gateway.name} {address}")
        return replace(caller, until=min(caller.until, gateway.until), gateway=gateway)

    def _by_certificate(self, pem: bytes, address: str, place: str) -> Caller:
        """Whom a certificate speaks for; that of the door for nobody, who is told apart by `place`."""
        if pem.strip() == self._door:
            return Caller("", DOOR, address, place)
        caller = replace(self._read(pem), address=address)
        self.check(caller)
        return caller

    async def _by_jwt(self, context: Context, address: str) -> Caller:
        """Whom the JWT of a call speaks for; without one it may exchange one and nothing else."""
        header = header_of(context, "authorization")
        if header is None:
            return Caller("", DOOR, address, context.peer())
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise ForbiddenError("authorization must be the word Bearer and a JWT")
        claims = await self._verify(token.strip())
        caller = Caller(claims.name, claims.role, address, claims.name, claims.until)
        self.check(caller)
        return caller

    def carries(self, context: Context) -> bool:
        """Whether it is a gateway's connection, over which others call."""
        certificates = context.auth_context().get("x509_pem_cert") or ()
        try:
            return any(self._read(pem).role == GATEWAY for pem in certificates if pem.strip() != self._door)
        except ForbiddenError:  # whose certificate is of nobody, which the call itself is told
            return False

    async def renewed(self) -> None:
        """See Issuer."""
        await self._issuer.renewed()
        self._read.cache_clear()

    def check(self, caller: Caller) -> None:
        """Raises ForbiddenError where the caller's certificate has ended, or its identity counts no more.

        NotReadyError where that is true of the gateway: another may carry the same call.
        """
        if caller.gateway:
            self.check(caller.gateway)
        try:
            if caller.until <= time.time():
                raise ended(caller)
            if caller.known:
                self._issuer.check(caller)
        except ForbiddenError as error:
            if caller.role != GATEWAY:
                raise
            raise NotReadyError(f"the gateway on the way carries no calls now: {error}") from error

    def _read_certificate(self, pem: bytes) -> Caller:
        try:
            certificate = pki.from_pem(pem)
        except ConfigError as error:
            raise ForbiddenError(str(error)) from error
        name, role = self._issuer.holder(certificate)
        until, serial = pki.ends_at(certificate), certificate.serial_number
        return Caller(name, role, "", name, until, serial, serves=pki.serves(certificate))


def ended(caller: Caller) -> ForbiddenError:
    """What a caller is told whose certificate or JWT has ended."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(caller.until))
    if caller.bearer:
        return EndedError(f"the JWT of {caller.name} ended on {when}; call again with a new one")
    return ForbiddenError(f"the certificate of {caller.name} ended on {when}; join again with a new token")


def header_of(context: Context, name: str) -> str | None:
    """The header of a call that has this name; raises ForbiddenError where there are several."""
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    if len(values) > 1:
        raise ForbiddenError(f"this call has {len(values)} headers {name}; send one")
    return str(values[0]) if values else None


@lru_cache(4096)
def certificate_in(header: str) -> bytes:
    """The certificate of the one caller that the header names, PEM; raises ForbiddenError."""
    found = _ELEMENT.fullmatch(header)
    if not found:
        raise ForbiddenError(f"{CERTIFICATE} is not one element with Cert; does the gateway SANITIZE_SET it?")
    return unquote(found[1]).encode()
