"""Who a JSON Web Token (RFC 7519) speaks for, checked as RFC 8725 asks for.

Its name is the `sub` of the token where that can be one; any other `sub` becomes a name that ends in a digest of
it, so that no two of one issuer share a name.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import jwt

from leader.config import TrustConfig
from leader.trust.identities.jwks import ALGORITHMS, FileKeys, IssuerKeys
from utils.errors import EndedError, ForbiddenError
from utils.trust.names import TOKEN_ROLES, name_of

_LEEWAY_S = 30.0  # by which the clocks of issuer and leader may differ
_MOST_S = 24 * 3600.0  # life of a token
_MOST_CHARACTERS = 16 << 10
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
_TYPES = ("jwt", "at+jwt")
_ENDED = "this JWT has ended; get a new one"
_REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.ImmatureSignatureError: "it is not valid yet: are the clocks of issuer and leader right?",
    jwt.InvalidSignatureError: "its signature is not its issuer's",
    jwt.InvalidAudienceError: "aud is not {0.jwt_audience} (trust.jwt_audience)",
    jwt.InvalidIssuerError: "iss is not {0.jwt_issuer} (trust.jwt_issuer)",
}


@dataclass(frozen=True)
class Claims:
    """What a token says of its bearer."""

    name: str
    role: str  # learner, aggregator, observer, operator or admin
    until: float  # unix seconds


#: Who a token speaks for; raises ForbiddenError or NotReadyError.
Verify = Callable[[str], Awaitable[Claims]]


class JwtVerifier:
    """Checks tokens against the keys of `trust.jwt_jwks`, else those that `trust.jwt_issuer` publishes."""

    def __init__(self, trust: TrustConfig) -> None:
        """Raises ConfigError if the file of keys can't be used."""
        self._trust = trust
        self._keys = FileKeys(trust.jwt_jwks) if trust.jwt_jwks else IssuerKeys(trust.jwt_issuer)

    async def verify(self, token: str) -> Claims:
        """Who the token speaks for. ForbiddenError tells what is wrong with it, NotReadyError that keys are missing."""
        _check(len(token) <= _MOST_CHARACTERS, f"it has more than {_MOST_CHARACTERS} characters")
        trust = self._trust
        try:
            key = await self._key_of(jwt.get_unverified_header(token))
            expected: dict[str, Any] = {"audience": trust.jwt_audience, "issuer": trust.jwt_issuer or None}
            claims = jwt.decode(token, key, ALGORITHMS, {"require": _REQUIRED}, leeway=_LEEWAY_S, **expected)
        except jwt.ExpiredSignatureError:
            raise EndedError(_ENDED) from None
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"{error.claim} is missing") from None
        except jwt.PyJWTError as error:  # its own words may quote the token
            raise _refused(_REASONS.get(type(error), "it is damaged, or no JWT").format(trust)) from None
        role = claims.get(trust.jwt_role_claim)
        _check(role in TOKEN_ROLES, f"{trust.jwt_role_claim} is none of {', '.join(TOKEN_ROLES)}")
        _check(bool(claims["sub"]), "sub is empty")
        return Claims(name_of(claims["sub"]), str(role), _end_of(claims))

    async def _key_of(self, header: dict[str, Any]) -> jwt.PyJWK:
        """The key that the header names: by kid and alg alone, whatever jku, jwk and x5u say."""
        algorithm, kind = header.get("alg"), str(header.get("typ")).lower()
        _check(algorithm in ALGORITHMS, f"alg is none of {', '.join(ALGORITHMS)}")
        _check(kind.removeprefix("application/") in _TYPES, "typ is neither JWT nor at+jwt")
        _check("crit" not in header, "crit asks for what is not known here")
        key = await self._keys.find(header.get("kid", ""), str(algorithm))
        if key is None:
            raise _refused(f"its issuer has no {algorithm} key of that kid")
        return key


async def none_taken(token: str) -> Claims:
    """What a leader that knows no issuer says of any token."""
    raise ForbiddenError("this leader takes no JWT; join with a token")


def open_verifier(trust: TrustConfig) -> Verify:
    """What checks tokens in this run; raises ConfigError if the file of keys can't be used."""
    return JwtVerifier(trust).verify if trust.jwt_issuer or trust.jwt_jwks else none_taken


def _refused(why: str) -> ForbiddenError:
    return ForbiddenError(f"this JWT is refused: {why}")


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        raise _refused(otherwise)


def _end_of(claims: dict[str, Any]) -> float:
    """When it ends. Leeway is for how it begins: one that has ended gives nobody a place until now."""
    born, end = claims["iat"], claims["exp"]
    _check(isinstance(born, int | float) and isinstance(end, int | float), "iat or exp is no number")
    if end <= time.time():
        raise EndedError(_ENDED)
    _check(end - born <= _MOST_S, f"it lives longer than {_MOST_S / 3600:g} hours")
    return float(end)
