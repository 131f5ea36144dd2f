"""Joining: a key becomes an identity by the leader's token or a JWT, over a channel of its own."""

from __future__ import annotations

import grpc
import jwt
from grpc import aio

from learner.options import LearnerOptions
from learner.trust.channel import CA_FILE, explained, open_channel
from protos import trust_pb2
from utils.errors import ForbiddenError, UnreachableError
from utils.trust import pki
from utils.trust.identity import Identity
from utils.trust.membership import Membership, door_of, enrol, read_text
from utils.trust.names import TLS_NAME, name_of
from utils.trust.token import JoinToken


async def join_by_token(options: LearnerOptions, member: Membership, token: JoinToken) -> None:
    """Have the leader of this token certify the identity's key; raises what it refuses with, or UnreachableError."""
    channel = open_channel(options, door_of(token).for_channel())
    request = member.request(token, name=options.name, serves=bool(options.network_addr))
    member.joined(await _enrol(channel, options.leader, request, "token"), token)


async def join_by_jwt(options: LearnerOptions, identity: Identity) -> None:
    """Have the leader certify the key for the JWT of --jwt-file; raises as `join_by_token` does, and ConfigError."""
    roots = read_text(options.ca, "--ca").encode() if options.ca else None
    address = options.jwt_leader or options.leader
    tls = grpc.ssl_channel_credentials(roots)
    channel = open_channel(options, tls, TLS_NAME if roots else "", address)
    request = trust_pb2.EnrolRequest(
        csr=pki.make_csr(identity.key),
        jwt=read_jwt(options),
        name=options.name,
        serves=bool(options.network_addr),
    )
    identity.take(await _enrol(channel, address, request, CA_FILE))


def read_jwt(options: LearnerOptions) -> str:
    """The JWT in --jwt-file, or ""; raises ConfigError."""
    return read_text(options.jwt_file, "--jwt-file") if options.jwt_file else ""


def name_in_jwt(options: LearnerOptions) -> str:
    """The name that the leader will know the bearer of --jwt-file by; "" = it can't be told here."""
    try:
        claims = jwt.decode(
            read_jwt(options), options={"verify_signature": False}
        )  # that is the leader's task
        return name_of(claims["sub"])
    except (jwt.PyJWTError, KeyError):
        return ""


async def _enrol(
    channel: aio.Channel, address: str, request: trust_pb2.EnrolRequest, known_by: str
) -> trust_pb2.Credential:
    try:
        return await enrol(channel, request)
    except (UnreachableError, ForbiddenError) as error:
        raise await explained(error, address, known_by) from None
