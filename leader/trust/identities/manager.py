"""TrustService: how identities come to be, and how operators and admins manage them, from afar or at the folder."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NoReturn, TypeVar

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from leader.trust.identities.authority import Authority
from leader.trust.identities.bearer import Verify, none_taken
from leader.trust.identities.callers import Caller, caller_of
from leader.trust.identities.state import Records, Revocation, TokenEntry
from protos import trust_pb2
from utils.console import printable
from utils.errors import CheckpointError, ConfigError, ForbiddenError, NotReadyError, PayloadError, WireError
from utils.trust import contract
from utils.trust.names import ROLES, TOKEN_ROLES
from utils.wire.contract import Call, Context, Method, serve

T = TypeVar("T")

_MANAGED = {"operator": ("learner", "observer"), "admin": ROLES}  # whom each may let in and turn out
MOST_HOURS = 87_600.0  # ten years
_MOST_TEXT = 256
_LINES = 16  # of the audit, in one message
_LISTED_S = 30 * 86_400.0  # how long a token that has ended is still listed

#: Whoever types commands on the leader's own machine: the folder's rights are what lets them.
LOCAL = Caller(f"uid {os.getuid()}", "admin", "", "local")


class Manager:
    """The folder of trust in the hands of one caller. Its methods wait for the disk.

    They raise PayloadError, ForbiddenError for what the caller's role may not, or CheckpointError.
    """

    def __init__(self, authority: Authority, by: Caller = LOCAL) -> None:
        self._authority = authority
        self._state = authority.state
        self._by = by

    def make_token(self, request: trust_pb2.TokenRequest) -> trust_pb2.Token:
        """A new join token, with its text."""
        self._check_token(request)
        token, now = self._authority.new_token(), self._authority.now()
        point = token.key().public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        entry = TokenEntry(
            key=point.hex(),
            role=request.role,
            name=request.name,
            uses=request.uses,
            replace=request.replace,
            until=now + 3600 * request.hours,
            by=self._by.name,
        )
        with self._state.edit() as records:
            if request.name:
                records.check_name(request.name)
            for old in [key for key, made in records.tokens.items() if made.until < now - _LISTED_S]:
                del records.tokens[old]
            records.tokens[token.token_id] = entry
        self._record("token made", token=token.token_id, name=entry.name, to=entry.role, uses=entry.uses)
        answer = _token(token.token_id, entry)
        answer.text = token.text
        return answer

    def _check_token(self, request: trust_pb2.TokenRequest) -> None:
        if request.role not in TOKEN_ROLES:
            raise PayloadError(f"role {request.role[:64]!r} is none of {', '.join(TOKEN_ROLES)}")
        if not 0 < request.hours <= MOST_HOURS:
            raise PayloadError(f"{request.hours} hours; more than 0, at most {MOST_HOURS:.0f}")
        if request.replace and not request.name:
            raise PayloadError("a token that takes a name over needs that name")
        self._check_may(request.role)

    def tokens(self, request: trust_pb2.ListRequest) -> trust_pb2.Tokens:
        """Those that were made, also some that have ended."""
        tokens = self._state.read().tokens
        return trust_pb2.Tokens(tokens=[_token(token_id, entry) for token_id, entry in tokens.items()])

    def revoke_token(self, request: trust_pb2.TokenId) -> trust_pb2.Tokens:
        """Let nobody join with a token any more; those who have stay. Gives the tokens that are left."""
        with self._state.edit() as records:
            entry = records.tokens.pop(request.id, None)
            if entry is None:
                raise PayloadError(f"there is no token {request.id[:64]!r}; see list")
            self._check_may(entry.role)
        self._record("token revoked", token=request.id)
        return self.tokens(trust_pb2.ListRequest())

    def identities(self, request: trust_pb2.ListRequest) -> trust_pb2.Identities:
        """Those that were admitted, and names that were revoked."""
        records = self._state.read()
        names = dict.fromkeys([*records.identities, *records.revoked])
        return trust_pb2.Identities(identities=[_identity(records, name) for name in names])

    def revoke(self, request: trust_pb2.RevokeRequest) -> trust_pb2.Identity:
        """Admit this name no more, from now on, whatever it shows; an unknown name may be one of a JWT."""
        why = printable(request.why[:_MOST_TEXT]) or "no reason given"
        revocation = Revocation(when=self._authority.now(), why=why, by=self._by.name)
        with self._state.edit() as records:
            known = records.identities.get(request.name)
            self._check_may(known.role if known else "")
            if request.name not in records.revoked:
                records.check_name(request.name)
                records.revoked[request.name] = revocation
            _end_tokens_of(request.name, records)
        self._record("revoked", name=request.name, why=why)
        return _identity(records, request.name)

    def forget(self, request: trust_pb2.ForgetRequest) -> trust_pb2.Identities:
        """Free a name, revoked or not: its certificate counts no more, and a token may give the name anew."""
        with self._state.edit() as records:
            known = records.identities.pop(request.name, None)
            if records.revoked.pop(request.name, None) is None and known is None:
                raise PayloadError(f"nobody is named {request.name[:64]!r}; see list")
            self._check_may(known.role if known else "")
            if known:
                records.withdraw(known, self._authority.now())
            _end_tokens_of(request.name, records)
        self._record("forgotten", name=request.name)
        return self.identities(trust_pb2.ListRequest())

    def _check_may(self, role: str) -> None:
        """Raise ForbiddenError unless the caller may manage this role; "" = one that is not known."""
        if self._by.role != "admin" and role not in _MANAGED.get(self._by.role, ()):
            whom, who = role or "an unknown name", self._by.role or "nobody"
            raise ForbiddenError(f"{who} may not do this for {whom}; ask an admin")

    def _record(self, what: str, **fields: Any) -> None:
        by = self._by
        self._authority.record(what, who=by.name, role=by.role, ip=by.address, **fields)


#: What answers the methods of TrustService that manage, here or for whoever calls from afar.
MANAGED: Mapping[Method[Any, Any], Callable[[Manager, Any], Any]] = {
    contract.LIST_IDENTITIES: Manager.identities,
    contract.REVOKE: Manager.revoke,
    contract.FORGET: Manager.forget,
    contract.MAKE_TOKEN: Manager.make_token,
    contract.LIST_TOKENS: Manager.tokens,
    contract.REVOKE_TOKEN: Manager.revoke_token,
}


def _identity(records: Records, name: str) -> trust_pb2.Identity:
    """What is known of a name, which may have no entry."""
    entry, revocation = records.identities.get(name), records.revoked.get(name)
    found = trust_pb2.Identity(name=name, revoked=revocation.why if revocation else "")
    if entry is not None:
        found.role, found.how = entry.role, entry.by
        found.since, found.until = int(entry.since), int(entry.until)
        found.key_sha256 = bytes.fromhex(entry.key_sha256)
    return found


def _end_tokens_of(maker: str, records: Records) -> None:
    """Who is turned out lets nobody else in either."""
    for token in [key for key, made in records.tokens.items() if made.by == maker]:
        del records.tokens[token]


def _token(token_id: str, one: TokenEntry) -> trust_pb2.Token:
    used, until = len(one.used), int(one.until)
    return trust_pb2.Token(id=token_id, name=one.name, role=one.role, uses=one.uses, used=used, until=until)


class TrustService:
    """How identities come to be and are managed, for callers that the guard has let through, and which it refuses."""

    def __init__(self, authority: Authority, verify: Verify = none_taken) -> None:
        """`verify` checks JWTs."""
        self._authority = authority
        self._verify = verify

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        calls: dict[Method[Any, Any], Call] = {
            contract.ENROL: self._enrol,
            contract.RENEW: self._renew,
            contract.WHO_AM_I: self._who_am_i,
            contract.READ_AUDIT: self._read_audit,
            **{method: partial(self._manage, call) for method, call in MANAGED.items()},
        }
        return serve(calls, _to_guard)

    async def _enrol(self, request: trust_pb2.EnrolRequest, context: Context) -> trust_pb2.Credential:
        ip = caller_of(context).address
        if not request.jwt:
            return await _on_disk(self._authority.enrol, request, ip)
        return await _on_disk(self._authority.exchange, request, await self._verify(request.jwt), ip)

    async def _renew(self, request: trust_pb2.RenewRequest, context: Context) -> trust_pb2.Credential:
        claims = await self._verify(request.jwt) if request.jwt else None
        return await _on_disk(self._authority.renew, request, caller_of(context), claims)

    async def _who_am_i(self, request: trust_pb2.WhoAmIRequest, context: Context) -> trust_pb2.Identity:
        caller = caller_of(context)
        known = _identity(self._authority.state.read(), caller.name)
        return known if known.role else trust_pb2.Identity(name=caller.name, role=caller.role)

    async def _manage(self, call: Callable[[Manager, Any], Any], request: Any, context: Context) -> Any:
        return await _on_disk(call, Manager(self._authority, caller_of(context)), request)

    async def _read_audit(self, request: trust_pb2.AuditRequest, context: Context) -> None:
        first = min(max(getattr(request, "from"), 1), sys.maxsize)
        path = self._authority.folder / "audit.jsonl"
        if not path.exists():
            raise NotReadyError("this leader keeps no audit")
        with path.open("rb") as file:
            lines = islice((line for line in file if line.endswith(b"\n")), first - 1, None)
            # Those before the first may be many.
            while some := await asyncio.to_thread(lambda: [line[:-1] for line in islice(lines, _LINES)]):
                await context.write(trust_pb2.AuditLines(lines=some))


async def _to_guard(method: str, context: Context, error: WireError) -> NoReturn:
    raise error


async def _on_disk(change: Callable[..., T], *args: Any) -> T:
    """The answer of what waits for the disk, while other calls go on."""
    try:
        return await asyncio.to_thread(change, *args)
    except (CheckpointError, ConfigError) as error:  # a disk that is full, a state that is damaged
        raise NotReadyError(f"the leader can't keep this: {error}") from error
