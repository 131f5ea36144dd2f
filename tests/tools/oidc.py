"""An OpenID provider of a test's own, on loopback over https, and the tokens that it signs."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from utils.trust import pki

DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"
SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def signing_key(algorithm: str, rsa_bits: int = 2048) -> SigningKey:
    """A new key for EdDSA, ES256 or RS256."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, rsa_bits)


def jwk_of(key: SigningKey, kid: str = "", *, private: bool = False, **more: Any) -> dict[str, Any]:
    """A key as JSON Web Key: its public half, unless `private`."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        found = OKPAlgorithm.to_jwk(key if private else key.public_key(), as_dict=True)
    elif isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(key if private else key.public_key(), as_dict=True)
    else:
        found = ECAlgorithm.to_jwk(key if private else key.public_key(), as_dict=True)
    named = {"kid": kid} if kid else {}
    return {name: value for name, value in found.items() if name != "key_ops"} | named | more


def jwks_of(*jwks: dict[str, Any]) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def claims_of(**changes: Any) -> dict[str, Any]:
    """The claims of a good token that lives for an hour; a change to None leaves one out."""
    now = int(time.time())
    good = {
        "iss": "https://issuer.example",
        "aud": "flockstep",
        "sub": "ann",
        "iat": now,
        "exp": now + 3600,
        "flockstep_role": "operator",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(key: SigningKey, kid: str = "", header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token with `claims_of(**claims)`, signed with the algorithm that the key is for."""
    algorithm = "ES256"
    if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        algorithm = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "RS256"
    named = {"kid": kid} if kid else {}
    return jwt.encode(claims_of(**claims), key, algorithm, headers=named | (header or {}))


class OidcIssuer:
    """What it answers at which path, and what it was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.key = signing_key("ES256")
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.answer(DISCOVERY, json.dumps({"issuer": url, "jwks_uri": url + JWKS}).encode())
        self.answer(JWKS, jwks_of(jwk_of(self.key, "first")))

    def answer(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """What is there from now on."""
        self.answers[path] = (status, headers, body)

    def rotate(self, kid: str) -> None:
        """Sign with a new key from now on, and publish that alone."""
        self.key = signing_key("ES256")
        self.answer(JWKS, jwks_of(jwk_of(self.key, kid)))

    def token(self, kid: str, **claims: Any) -> str:
        """A token for the audience `flockstep` by this issuer."""
        return signed(self.key, kid, iss=self.url, **claims)


@contextmanager
def oidc_issuer(folder: Path) -> Iterator[OidcIssuer]:
    """An issuer whose certificate is of the CA in `folder`/ca.pem, for SSL_CERT_FILE; it is down afterwards."""
    ca_key, key = pki.new_key(), pki.new_key()
    ca = pki.make_ca(ca_key, time.time())
    (folder / "ca.pem").write_bytes(pki.to_pem(ca))
    pair = folder / "issuer.pem"
    certificate = pki.server_certificate(ca, ca_key, key.public_key(), ["localhost"])
    pair.write_bytes(pki.key_to_pem(key) + pki.to_pem(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            status, headers, body = issuer.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust it
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        issuer = OidcIssuer(f"https://localhost:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
