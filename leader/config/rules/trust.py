"""Ports, and proofs of who calls, that don't go together."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.run_fields import RunFields
from utils.settings.fields import is_address


def identities(config: RunFields) -> Iterator[str]:
    trust = config.trust
    pki = {name: getattr(trust, name) for name in ("certificate", "key", "client_ca", "roles")}
    given = [f"trust.{name}" for name, path in pki.items() if path]
    if given and (missing := [f"trust.{name}" for name, path in pki.items() if not path]):
        yield f"{given[0]} is set, and a PKI of your own needs {', '.join(missing)} too"
    listeners = [f"trust.{name}" for name in ("jwt_listen", "plain_listen") if getattr(trust, name)]
    jwts = [f"trust.{name}" for name in ("jwt_listen", "jwt_issuer", "jwt_jwks") if getattr(trust, name)]
    if given and jwts:
        yield (
            f"{jwts[0]} is set, but JWTs are exchanged for certificates of the leader's own CA, and {given[0]} puts "
            "another PKI in its place: leave one of them out"
        )
    if not config.secure and (idle := listeners + given):
        yield (
            f"{idle[0]} is set, but there is no trust on {config.listen} (trust.mode is {trust.mode}): "
            "leave it out, or set trust.mode=on (--secure)"
        )
    addresses = {f"trust.{name}": getattr(trust, name) for name in ("jwt_listen", "plain_listen")}
    for name in ("edges", "http", "web"):
        addresses[f"{name}.listen"] = getattr(config, name).listen
    for name, text in addresses.items():
        if text and not is_address(text):
            yield f"{name} is {text!r}, but it must be HOST:PORT with a port from 0 to 65535"


def jwt(config: RunFields) -> Iterator[str]:
    trust = config.trust
    if trust.jwt_listen and not (trust.jwt_issuer or trust.jwt_jwks):
        yield (
            f"trust.jwt_listen is {trust.jwt_listen}, but nothing says whose JWTs count: set trust.jwt_issuer, "
            "or trust.jwt_jwks"
        )
    if trust.jwt_issuer and not trust.jwt_jwks and not trust.jwt_issuer.startswith("https://"):
        yield (
            f"trust.jwt_issuer is {trust.jwt_issuer}, but keys are fetched over https alone: set its https:// "
            "address, or trust.jwt_jwks, a file with its keys"
        )
    for name in ("jwt_audience", "jwt_role_claim"):
        if not getattr(trust, name):
            yield f"trust.{name} is '', so that any JWT of the issuer would do: leave it out, or set it"


def http(config: RunFields) -> Iterator[str]:
    """One line for each setting under which learners can't take part by single requests."""
    http, trust = config.http, config.trust
    if not http.listen:
        return
    begins = f"http.listen is {http.listen}, for learners that make single requests, but "
    alone = "or leave http.listen empty"
    if config.exchange == "gradient":
        yield f"{begins}exchange is gradient, where each step is an exchange: set exchange=delta, {alone}"
    if (mode := config.secagg.mode) != "off":
        yield f"{begins}secagg.mode is {mode}, whose masks are agreed on over sessions: set secagg.mode=off, {alone}"
    if config.secure and not (trust.jwt_issuer or trust.jwt_jwks):
        yield f"{begins}nothing says whose JWTs they are known by: set trust.jwt_issuer or trust.jwt_jwks, {alone}"
    if bool(http.certificate) != bool(http.key):
        yield "http.certificate and http.key belong together: set both, or neither"
    if http.certificate and not config.secure:
        yield (
            f"http.certificate is {http.certificate}, but nothing is encrypted (trust.mode is {trust.mode}): "
            "leave it out, or set trust.mode=on (--secure)"
        )
