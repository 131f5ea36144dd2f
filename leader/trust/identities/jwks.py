"""Keys that JWTs are signed with, public ones alone: those of a file, or those that an OpenID issuer publishes."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import HTTPSHandler, OpenerDirector

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

from utils.errors import ConfigError, NotReadyError

_log = logging.getLogger(__name__)

#: What a token may be signed with, by the type and curve of a JSON Web Key.
_ALGORITHM_OF = {"OKP Ed25519": "EdDSA", "EC P-256": "ES256", "RSA None": "RS256"}
ALGORITHMS = tuple(_ALGORITHM_OF.values())
_LEAST_RSA_BITS = 2048
_MOST_BYTES = 256 << 10
_FETCH_S = 5.0
_FRESH_S = 300.0  # a key that its issuer withdraws is taken for so long
_PAUSE_S = 60.0  # between two fetches for the same reason

#: By key ID and algorithm; the ID is "" where a key has none.
KeySet = Mapping[tuple[str, str], PyJWK]


@functools.lru_cache(maxsize=1)
def parse(document: bytes) -> KeySet:
    """The keys of a JSON Web Key Set that may be used here; ValueError if it is none.

    The rest is left out: symmetric and private keys, RSA below 2048 bits, other algorithms, keys for encryption.
    """
    keys = _members(document).get("keys")
    if not isinstance(keys, list):
        raise ValueError("no JSON Web Key Set, which has a list of keys")
    usable = (key for key in map(_usable, keys) if key)
    return {(key.key_id or "", key.algorithm_name): key for key in usable}


def _members(document: bytes) -> dict[str, object]:
    if len(document) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes")
    members = json.loads(document)
    if not isinstance(members, dict):
        raise ValueError("not a JSON object")
    return members


def _usable(jwk: object) -> PyJWK | None:
    if not isinstance(jwk, dict) or "d" in jwk or jwk.get("use", "sig") != "sig":
        return None
    algorithm = _ALGORITHM_OF.get(f"{jwk.get('kty')} {jwk.get('crv')}")
    if not algorithm or jwk.get("alg", algorithm) != algorithm or not isinstance(jwk.get("kid", ""), str):
        return None
    try:
        key = PyJWK(jwk, algorithm)
    except (PyJWTError, AttributeError):  # of members that are no text
        return None
    weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS
    return None if weak else key


class FileKeys:
    """The keys of a file, as they are when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file has no key that can be used."""
        self._path = path
        try:
            if not parse(path.read_bytes()):
                raise ValueError(f"it has no public key for {', '.join(ALGORITHMS)}")
        except (OSError, ValueError) as error:
            raise ConfigError(f"trust.jwt_jwks is {path}, which can't be used: {error}") from None

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key of this ID for this algorithm; None = there is none. NotReadyError if none can be had now."""
        try:
            return parse(self._path.read_bytes()).get((kid, algorithm))
        except (OSError, ValueError):
            raise NotReadyError("the leader's file of keys (trust.jwt_jwks) can't be read now") from None


class IssuerKeys:
    """The keys that an OpenID issuer publishes, fetched off the event loop; the last ones are kept while it is down.

    Fetched again after five minutes, and for a key that is not among them; each at most once a minute.
    """

    def __init__(self, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: KeySet | None = None
        self._loaded = -math.inf
        self._tried: dict[str, float] = {}
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """As that of FileKeys does."""
        now = self._clock()
        known = (kid, algorithm) in (self._keys or {})
        reason = "stale" if now - self._loaded >= _FRESH_S else "" if known else "unknown"
        if reason and not self._fetch and now - self._tried.get(reason, -math.inf) >= _PAUSE_S:
            self._tried[reason] = now
            self._fetch = asyncio.create_task(self._refresh())
        if reason and self._fetch:
            await asyncio.wait((self._fetch,), timeout=_FETCH_S)
        if self._keys is None:
            raise NotReadyError(f"the keys of {self._issuer} can't be fetched; try again in a minute")
        return self._keys.get((kid, algorithm))

    async def _refresh(self) -> None:
        try:
            self._keys = await asyncio.to_thread(published, self._issuer)
            self._loaded = self._clock()
        except (OSError, HTTPException, ValueError) as error:
            _log.warning("the keys of %s can't be fetched; those of before stay: %s", self._issuer, error)
        finally:
            self._fetch = None


def published(issuer: str) -> KeySet:
    """The keys that `issuer` publishes now; OSError, HTTPException or ValueError."""
    return parse(_get(jwks_uri(issuer)))


def jwks_uri(issuer: str) -> str:
    """Where `issuer` publishes its keys, by OpenID Connect Discovery 1.0; OSError, HTTPException or ValueError."""
    about = _members(_get(f"{issuer.removesuffix('/')}/.well-known/openid-configuration"))
    if about.get("issuer") != issuer:
        raise ValueError("what is published there is another issuer's")
    return str(about.get("jwks_uri"))


def _get(url: str) -> bytes:
    """What is at `url`, over https and from there alone: no redirect is followed, no proxy asked."""
    opener = OpenerDirector()
    opener.addheaders = [("User-Agent", "flockstep")]  # some providers refuse the one of Python itself
    opener.add_handler(HTTPSHandler(context=ssl.create_default_context()))
    answer = opener.open(url, timeout=_FETCH_S)
    if not answer:
        raise ValueError(f"{url} is not an https address")
    with answer:
        if answer.status != 200:
            raise ValueError(f"{url} answers {answer.status}")
        return bytes(answer.read(_MOST_BYTES + 1))
