"""Joining: a key becomes an identity, by the leader's token or a JWT, and stays one by being certified anew."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import jwt
from grpc import aio

from learner.options import LearnerOptions
from learner.trust.channel import CA_FILE, explained, open_channel
from learner.trust.identity import Identity
from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError, UnreachableError
from utils.trust import pki
from utils.trust.contract import ENROL, RENEW
from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME, name_of
from utils.trust.token import JoinToken, door_credentials
from utils.version import RELEASE
from utils.wire.status import failures_told

_CALL_TIMEOUT_S = 10.0


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


async def join_by_token(options: LearnerOptions, identity: Identity, token: JoinToken) -> None:
    """Have the leader of this token certify the identity's key; raises what it refuses with, or UnreachableError."""
    certificate, key = door_credentials(token.door)
    ca_key, csr = token.ca_public_key(), pki.make_csr(identity.key)
    door = Credentials(pki.key_to_pem(key), pki.to_pem(certificate), pki.to_pem(pki.anchor(ca_key)))
    channel = open_channel(options, door.for_channel())
    request = trust_pb2.EnrolRequest(csr=csr, token_id=token.token_id, proof=token.prove(csr))
    identity.take(await _enrol(options, channel, options.leader, request, "token"), ca_key)


async def join_by_jwt(options: LearnerOptions, identity: Identity) -> None:
    """Have the leader certify the key for the JWT of --jwt-file; raises as `join_by_token` does, and ConfigError."""
    roots = read_text(options.ca, "--ca").encode() if options.ca else None
    address = options.jwt_leader or options.leader
    tls = grpc.ssl_channel_credentials(roots)
    channel = open_channel(options, tls, TLS_NAME if roots else "", address)
    request = trust_pb2.EnrolRequest(csr=pki.make_csr(identity.key), jwt=_jwt(options))
    identity.take(await _enrol(options, channel, address, request, CA_FILE))


async def renew(options: LearnerOptions, identity: Identity, channel: aio.Channel) -> None:
    """Have the leader certify the key anew; raises what it refuses with, UnreachableError or ConfigError."""
    csr, serves = pki.make_csr(identity.key), bool(options.network_addr)
    request = trust_pb2.RenewRequest(csr=csr, serves=serves, jwt=_jwt(options))
    with failures_told():
        identity.take(await RENEW.ask(channel, request, _CALL_TIMEOUT_S))


def _jwt(options: LearnerOptions) -> str:
    return read_text(options.jwt_file, "--jwt-file") if options.jwt_file else ""


def name_in_jwt(options: LearnerOptions) -> str:
    """The name that the leader will know the bearer of --jwt-file by; "" = it can't be told here."""
    try:
        claims = jwt.decode(_jwt(options), options={"verify_signature": False})  # that is the leader's task
        return name_of(claims["sub"])
    except (jwt.PyJWTError, KeyError):
        return ""


async def _enrol(
    options: LearnerOptions,
    channel: aio.Channel,
    address: str,
    request: trust_pb2.EnrolRequest,
    known_by: str,
) -> trust_pb2.Credential:
    request.name, request.serves, request.release = options.name, bool(options.network_addr), RELEASE
    try:
        async with channel:
            with failures_told():
                return await ENROL.ask(channel, request, _CALL_TIMEOUT_S)
    except (UnreachableError, ForbiddenError) as error:
        raise await explained(error, address, known_by) from None
