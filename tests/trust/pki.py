"""What tests of trust connect with: a fleet's CA, whom it issues for, and TLS servers and channels of both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from cryptography import x509
from grpc import aio

from tests.tools.grpc_server import started
from utils.trust import pki
from utils.trust.names import TLS_NAME, Identity
from utils.trust.token import JoinToken, door_credentials

TIMEOUT_S = 20.0
_WHO = "/test/Who"


@dataclass(frozen=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: pki.Key

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Key and certificate in PEM, as gRPC takes them."""
        return pki.key_to_pem(self.key), pki.to_pem(self.certificate)

    def identity(self, fleet: Fleet) -> Identity:
        return pki.identity_of(self.certificate, fleet.ca)


class Fleet:
    """A CA in memory, and its door."""

    def __init__(self) -> None:
        self.key = pki.new_key()
        self.ca = pki.make_ca(self.key, time.time())
        self.name = pki.fleet_of(self.key.public_key())
        self.door_bytes = bytes(range(16))
        self.door = Holder(*door_credentials(self.door_bytes))

    def token(self) -> JoinToken:
        return JoinToken.make(self.key.public_key(), self.door_bytes)

    def issue(
        self, name: str, role: str = "learner", *, serves: bool = False, life_s: float = 3600.0
    ) -> Holder:
        """A certificate for a new key."""
        key, now = pki.new_key(), time.time()
        identity = Identity(self.name, role, name)
        return Holder(
            pki.issue(
                self.ca, self.key, key.public_key(), identity, until=now + life_s, now=now, serves=serves
            ),
            key,
        )

    def server(self, names: Sequence[str] = ()) -> Holder:
        """A certificate of the leader's own listener."""
        key = pki.new_key()
        return Holder(pki.server_certificate(self.ca, self.key, key.public_key(), names), key)

    def server_credentials(self, holder: Holder | None = None) -> grpc.ServerCredentials:
        """TLS that asks for a certificate: one that the CA issued, or the door's."""
        roots = pki.to_pem(self.ca) + pki.to_pem(self.door.certificate)
        pair = (holder or self.server()).pair
        return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=True)

    def channel(self, address: str, holder: Holder | None, server_name: str = TLS_NAME) -> aio.Channel:
        """A connection of its own to a server that this fleet's CA must know, as `holder` or as nobody."""
        return open_channel(address, self.ca, holder, server_name)


def open_channel(
    address: str, root: x509.Certificate, holder: Holder | None, server_name: str = TLS_NAME
) -> aio.Channel:
    """A connection of its own to a server that `root` must know; "" = by the address dialled."""
    key, certificate = holder.pair if holder else (None, None)
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    credentials = grpc.ssl_channel_credentials(pki.to_pem(root), key, certificate)
    return aio.secure_channel(address, credentials, options)


@asynccontextmanager
async def listening(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    """The address of a server that tells callers the certificate by which it knows them (`ask_who`)."""

    async def who(_: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        seen = context.auth_context()
        assert seen["ssl_tls_version"] == [b"TLSv1.3"]
        (pem,) = seen["x509_pem_cert"]
        return bytes(pem)

    server = aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Who": handler}),))
    async with started(server, credentials) as address:
        yield address


async def ask_who(channel: aio.Channel) -> x509.Certificate:
    """The certificate by which a `listening` server knows this end; AioRpcError if TLS does not come about."""
    async with channel:
        who: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_WHO)
        return pki.from_pem(await who(b"", timeout=TIMEOUT_S))
