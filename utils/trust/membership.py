"""Membership: a key becomes an identity by the leader's token, and stays one by being certified anew."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from grpc import aio

from protos import trust_pb2
from utils.errors import ConfigError, FlockstepError, ForbiddenError
from utils.trust import pki
from utils.trust.contract import ENROL, RENEW
from utils.trust.credentials import Credentials
from utils.trust.identity import Identity
from utils.trust.token import JoinToken, door_credentials
from utils.version import RELEASE
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 10.0
_LATEST = 0.8  # of the second half of a certificate's life, after which no good moment is waited for
_LOOK_S = 60.0  # the clock may jump, and timers stand still while a machine sleeps
_LEAST_S = 0.1


def read_token(text: str) -> JoinToken:
    """The token that --join gives, or says where it is; raises ConfigError, or ForbiddenError for a damaged one."""
    if text == "-":
        return JoinToken.parse(sys.stdin.readline())
    return JoinToken.parse(read_text(Path(text[1:]), "--join") if text.startswith("@") else text)


def read_text(path: Path, flag: str) -> str:
    """The text in the file that a flag names, without space around it; raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: can't read {path}: {error}") from None


class Membership:
    """An identity, and the token that it joins by where it has not, or where it is of no use any more."""

    def __init__(self, identity: Identity, token: JoinToken | None) -> None:
        self.identity = identity
        self._token = token  # that has not been used yet
        ca = pki.from_pem(identity.credentials.roots) if identity.certificate else None
        # Whether the identity is of no use here, though its certificate has not ended.
        self._stale = bool(ca and token and ca.public_key() != token.ca_public_key())

    @property
    def due(self) -> JoinToken | None:
        """The token that it is to join by now, if it is to and there is one."""
        return self._token if self._stale or not self.identity.valid else None

    def mends(self) -> bool:
        """The leader refuses the identity, which it may have forgotten; whether its key may join again by a token."""
        self._stale = self._token is not None
        return self._stale

    def request(self, token: JoinToken, *, name: str, serves: bool, role: str = "") -> trust_pb2.EnrolRequest:
        """What asks the leader of this token to certify the identity's key."""
        csr = pki.make_csr(self.identity.key)
        return trust_pb2.EnrolRequest(
            csr=csr, token_id=token.token_id, proof=token.prove(csr), name=name, serves=serves, role=role
        )

    def joined(self, credential: trust_pb2.Credential, token: JoinToken) -> None:
        """Keep what the leader has answered; raises what Identity.take does."""
        self.identity.take(credential, token.ca_public_key())
        self._token, self._stale = None, False


def door_of(token: JoinToken) -> Credentials:
    """What a token's holder shows its leader, and knows it by, before it has an identity."""
    certificate, key = door_credentials(token.door)
    anchor = pki.to_pem(pki.anchor(token.ca_public_key()))
    return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), anchor)


async def enrol(channel: aio.Channel, request: trust_pb2.EnrolRequest) -> trust_pb2.Credential:
    """Have the leader certify a key, over a channel that is closed then; raises what it refuses with."""
    request.release = RELEASE
    async with channel:
        with failures_told():
            return await ENROL.ask(channel, request, _CALL_TIMEOUT_S)


def stranger(error: FlockstepError, address: str, known_by: str) -> ForbiddenError | None:
    """What a person is told where somebody else answers than the leader of a token or identity; None = not that."""
    why = str(error)
    wrong = "Hostname Verification Check failed" in why or "CERTIFICATE_VERIFY_FAILED" in why
    if not wrong or "certificate is not yet valid" in why:
        return None
    return ForbiddenError(
        f"{address} is not the leader of this {known_by}: wrong address, or somebody is in between"
    )


async def renew(identity: Identity, channel: aio.Channel, *, serves: bool, jwt: str = "") -> None:
    """Have the leader certify the key anew; raises what it refuses with, UnreachableError or ConfigError."""
    request = trust_pb2.RenewRequest(csr=pki.make_csr(identity.key), serves=serves, jwt=jwt)
    with failures_told():
        identity.take(await RENEW.ask(channel, request, _CALL_TIMEOUT_S))


async def replaced(
    half: float, end: float, renewed: Callable[[], Awaitable[bool]], moment: asyncio.Event
) -> None:
    """Returns when a connection should show another certificate: at a good moment, or shortly before the old one ends.

    Args:
        half, end: of the certificate's life; unix seconds.
        renewed: gets a newer one; False if there is none yet, and what it raises may pass.
        moment: set when one has come.
    """
    while (left_s := half - time.time()) > 0 or not await _tried(renewed):
        wait_s = left_s if left_s > 0 else max((end - time.time()) / 10, _LEAST_S)
        await asyncio.sleep(min(wait_s, _LOOK_S))
    moment.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(half + _LATEST * (end - half) - time.time()):
            await moment.wait()


async def _tried(renewed: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await renewed()
    except FlockstepError as error:
        _log.warning("the certificate is not renewed yet: %s", error)
        return False
