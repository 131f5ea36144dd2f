"""Credentials: what one end of a TLS connection shows, and whom it trusts."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True)
class Credentials:
    """All PEM; callers of a server need a certificate that its roots vouch for."""

    key: bytes = field(repr=False)
    certificate: bytes
    roots: bytes

    def for_channel(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.roots, self.key, self.certificate)

    def for_server(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.roots, require_client_auth=True
        )
