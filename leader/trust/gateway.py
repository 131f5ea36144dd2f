"""The gateway: an Envoy before the leader or its edges that lets in whom the leader would, and tells who they are."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from cryptography import x509

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.access.connections import STREAMS
from leader.trust.identities.authority import Applicant, Authority
from leader.trust.identities.jwks import FileKeys, jwks_uri
from leader.trust.identities.manager import LOCAL
from utils.errors import ConfigError
from utils.settings.fields import is_address
from utils.trust import pki
from utils.trust.names import EDGE_TLS_NAME, TLS_NAME, TOKEN_ROLES

_CLIENT = "client.pem"
_MIB = 1 << 20
_ORIGIN = re.compile(r"https?://[a-z0-9._-]+(:[0-9]+)?")  # nothing stands for any
_ROOTS = "/etc/ssl/certs/ca-certificates.crt"  # where most systems have those of public CAs
Values = dict[str, object]  # of the template, by name


@dataclass(frozen=True)
class Gateway:
    """One Envoy: where it stands, and what it stands in front of."""

    name: str
    listen: str  # HOST:PORT
    leader: str  # HOST:PORT
    dns: Sequence[
        str
    ] = ()  # names and addresses of its own, for clients that check the one that they dialled
    edges: Sequence[str] = ()  # HOST:PORT of each, in place of the leader
    origins: Sequence[str] = ()  # SCHEME://HOST[:PORT] of pages that may call by grpc-web

    def __post_init__(self) -> None:
        behind = [("--edge", edge) for edge in self.edges] or [("--leader", self.leader)]
        for flag, address in (("--listen", self.listen), *behind):
            if not is_address(address):
                raise ConfigError(f"{flag} {address}: it must be HOST:PORT with a port from 0 to 65535")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"--origin {origin}: it must be what a browser says of the page's site, such as https://fl.example.org"
                )
        if self.origins and self.edges:
            raise ConfigError(
                "--origin: pages call the leader, not edges; give it to the gateway in front of that"
            )


def make_gateway(
    authority: Authority, config: RunConfig, gateway: Gateway, key: pki.Key, hours: float, replace: bool
) -> dict[str, bytes]:
    """All files that Envoy needs, by name; server.pem and client.pem hold keys.

    Args:
        config: of the run, for its `limits` and `trust.jwt_*`.
        key: by which the leader knows this gateway; `key_in` gives that of before.
        hours: life of its certificates.
        replace: whether the name may be another key's by now.

    Raises:
        ConfigError: a DNS name can't be one, the issuer of JWTs can't be asked for its keys, pages may call a run
            without JWTs, or the run has a PKI of its own.
        ForbiddenError: the name is another key's.
    """
    if config.trust.client_ca:
        raise ConfigError(
            f"trust.client_ca is {config.trust.client_ca}: that PKI must issue the gateway's certificates, see "
            "docs/security.md; leave out --config for an example to change"
        )
    jwt = _jwt(config.trust)
    if gateway.origins and "jwt" not in jwt:
        raise ConfigError(
            "--origin: a page proves by a JWT who calls, and this run takes none; set trust.jwt_issuer or "
            "trust.jwt_jwks in --config"
        )
    values = _values(authority.fleet, gateway, config.limits) | jwt
    server = authority.server_credentials(gateway.dns, hours)
    by = f"issued by {LOCAL.name}"
    one = Applicant(gateway.name, "gateway", key.public_key(), by, replace=replace, hours=hours)
    certificate = x509.load_der_x509_certificate(authority.issue(one).certificate)
    return {
        "envoy.yaml": _filled(values).encode(),
        "server.pem": server.key + server.certificate,
        _CLIENT: pki.key_to_pem(key) + pki.to_pem(certificate),
        "ca.pem": pki.to_pem(authority.ca),
        "clients.pem": server.roots,
    }


def key_in(folder: Path) -> pki.Key:
    """The key of the gateway whose files are in `folder`; a new one if there are none."""
    path = folder / _CLIENT
    return pki.key_from_pem(path.read_bytes(), str(path)) if path.exists() else pki.new_key()


def _filled(values: Values) -> str:
    """The template with its values, and of its <blocks> those alone whose name is a value."""
    template = files(__package__).joinpath("gateway.yaml").read_text(encoding="utf-8")
    for block in ("jwt", "issuer", "edges", "origins"):
        pattern = rf" *# <{block}>\n(.*?) *# </{block}>\n"
        template = re.sub(pattern, r"\1" if values.get(block) else "", template, flags=re.DOTALL)
    # What is JSON is YAML too.
    return Template(template).substitute({name: json.dumps(value) for name, value in values.items()})


def _values(fleet: str, gateway: Gateway, limits: LimitsConfig) -> Values:
    connections = limits.connections or 2 * limits.max_learners + 64
    listen = gateway.listen.rpartition(":")
    return {
        "name": gateway.name,
        "listen_host": listen[0].strip("[]"),
        "listen_port": int(listen[2]),
        "behind": [_endpoint(address) for address in gateway.edges or [gateway.leader]],
        "edges": bool(gateway.edges),
        # A browser may speak HTTP/1.1.
        "protocols": ["h2", "http/1.1"] if gateway.origins else ["h2"],
        "codec": "AUTO" if gateway.origins else "HTTP2",
        "origins": [{"exact": origin} for origin in gateway.origins],
        "discovery": "STRICT_DNS" if gateway.edges else "LOGICAL_DNS",
        "tls_name": EDGE_TLS_NAME if gateway.edges else TLS_NAME,
        "members": rf"spiffe://{fleet}\.flockstep/({'|'.join(TOKEN_ROLES)})/.+",
        "handshake_s": f"{limits.handshake_s:.3f}s",
        "connections": connections,
        "buckets": 2 * connections,
        "calls": 4 * limits.max_learners + 64,
        "streams": STREAMS,
        "connection_window": 2 * STREAMS * _MIB,
        # Twice what the leader allows: it tells callers when to come again.
        "calls_per_s": _whole(2 * limits.calls_per_s),
        "call_burst": _whole(4 * limits.calls_per_s),
        "enrolments_per_min": _whole(2 * limits.enrolments_per_min),
    }


def _endpoint(address: str) -> Values:
    host, _, port = address.rpartition(":")
    return {
        "endpoint": {"address": {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}}
    }


def _whole(number: float) -> int:
    return max(1, round(number))


def _jwt(trust: TrustConfig) -> Values:
    """What lets bearers of JWTs in, if the run takes any."""
    if not (trust.jwt_jwks or trust.jwt_issuer):
        return {"require_certificate": True}
    values: Values = {
        "require_certificate": False,
        "jwt": True,
        "jwt_issuer": trust.jwt_issuer,
        "jwt_audience": trust.jwt_audience,
    }
    if not trust.jwt_jwks:
        return values | _issuer(trust.jwt_issuer)
    FileKeys(trust.jwt_jwks)  # raises ConfigError unless there are keys in it
    keys = trust.jwt_jwks.read_text(encoding="utf-8")
    return values | {"jwt_source": "local_jwks", "jwt_keys": {"inline_string": keys}}


def _issuer(issuer: str) -> Values:
    """Where Envoy fetches the keys of JWTs."""
    try:
        uri = jwks_uri(issuer)
        at = urlsplit(uri)
        port = at.port or 443
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"trust.jwt_issuer is {issuer}, which does not tell its keys: {error}") from error
    fetched = {"uri": uri, "cluster": "issuer", "timeout": "5s"}
    return {
        "jwt_source": "remote_jwks",
        # Those of before count while the issuer is down.
        "jwt_keys": {"http_uri": fetched, "cache_duration": "60s", "async_fetch": {}},
        "issuer": True,
        "issuer_host": at.hostname,
        "issuer_port": port,
        "issuer_roots": ssl.get_default_verify_paths().cafile or _ROOTS,
    }
