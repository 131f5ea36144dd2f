"""The section that says who may take part."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from leader.config.sections.base import Positive, Section


class TrustConfig(Section):
    """Who may take part: identities, roles, tokens."""

    mode: Literal["auto", "on", "off"] = Field(
        "auto", description="encrypt and authenticate; auto = as soon as listen is not this machine alone"
    )
    dir: Path = Field(Path("trust"), description="folder of the CA and of who was admitted; serves many runs")
    names: str = Field(
        "",
        description="more DNS names and IPs for the leader's certificate, comma-separated, for foreign clients",
    )
    cert_hours: Positive = Field(
        720.0, description="life of an identity's certificate; renewed at half of it"
    )
    token_hours: Positive = Field(24.0, description="life of the join token that is printed at the start")
    token_uses: int = Field(0, ge=0, description="uses of that token; 0 = any number")
    certificate: Path | None = Field(None, description="own PKI: the leader's certificate and chain (PEM)")
    key: Path | None = Field(None, description="own PKI: its key (PEM)")
    client_ca: Path | None = Field(None, description="own PKI: CAs of the clients (PEM)")
    roles: Path | None = Field(
        None, description="own PKI: rules, a line each, such as CN=ann@corp = operator"
    )
    jwt_listen: str = Field("", description="HOST:PORT for callers with a JWT and no certificate")
    jwt_issuer: str = Field("", description="https issuer of JWTs, with OpenID discovery")
    jwt_jwks: Path | None = Field(None, description="file with the issuer's keys, in place of discovery")
    jwt_audience: str = Field("flockstep", description="audience that a JWT must name")
    jwt_role_claim: str = Field("flockstep_role", description="claim of a JWT that names the role")
    jwt_cert_hours: Positive = Field(24.0, description="life of a certificate that a JWT was exchanged for")
    plain_listen: str = Field(
        "",
        description="HOST:PORT without encryption for clients of the plain contract; whoever reaches it may learn",
    )
