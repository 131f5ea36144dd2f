"""Settings that plain HTTP can't go with, each with the reason and what to set instead."""

from __future__ import annotations

from collections.abc import Iterator

from leader.config.sections import RunFields


def problems_of_http(config: RunFields) -> Iterator[str]:
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
