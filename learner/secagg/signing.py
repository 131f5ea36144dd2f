"""Who signs: this learner by its identity, and whom it masks with: a list of its own, which no leader changes."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatchcase
from pathlib import Path

from utils.errors import ConfigError, ForbiddenError
from utils.secagg.signatures import check_signed, identity_bytes, sign
from utils.trust import pki
from utils.trust.credentials import Credentials

_LINE = re.compile(r"([A-Za-z0-9._*-]{1,64})(?:\s+([0-9a-f]{64}))?", re.ASCII)


class Peers:
    """A file with a rule a line: NAME, where * is anything, and the SHA-256 of its key, if one is pinned.

    The first rule that fits a name counts. Raises ConfigError for a file that has none, or other lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rules: list[tuple[str, str]] = []  # name, digest or ""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--peers: {path} can't be read: {error}") from None
        for number, line in enumerate(lines, 1):
            if not (text := line.partition("#")[0].strip()):
                continue
            if not (found := _LINE.fullmatch(text)):
                raise ConfigError(
                    f"--peers: line {number} of {path} is not NAME or NAME KEY, KEY 64 hex digits"
                )
            self._rules.append((found[1], found[2] or ""))
        if not self._rules:
            raise ConfigError(f"--peers: {path} lists nobody")

    def check(self, name: str, key: pki.PublicKey) -> None:
        """Raise ForbiddenError unless the list has this name with this key."""
        pinned = next((digest for rule, digest in self._rules if fnmatchcase(name, rule)), None)
        if pinned is None:
            raise ForbiddenError(
                f"{name} is none of those that this learner masks with (--peers {self.path})"
            )
        if pinned not in ("", key_digest(key)):
            raise ForbiddenError(
                f"{name} has another key than this learner knows it by (--peers {self.path})"
            )


class Signer:
    """The Signing of an identity that this learner holds; see learner.secagg.member."""

    def __init__(self, credentials: Credentials, peers: Peers | None) -> None:
        self._key = pki.key_from_pem(credentials.key)
        self._ca = pki.from_pem(credentials.roots)
        self._peers = peers
        certificate = pki.from_pem(credentials.certificate)
        self._name = pki.identity_of(certificate, self._ca).name
        self.identity = identity_bytes(certificate)

    @property
    def promise(self) -> str:
        """Whom this learner masks with, and what others pin it by."""
        whom = (
            f"those in {self._peers.path}"
            if self._peers
            else "whom the leader's CA certifies; --peers pins them"
        )
        return (
            f"masks with {whom}; for the others' --peers: {self._name} {key_digest(self._key.public_key())}"
        )

    def sign(self, digest: bytes) -> bytes:
        """See Signing."""
        return sign(self._key, digest)

    def check(self, identity: bytes, name: str, digest: bytes, signature: bytes, what: str) -> None:
        """See Signing."""
        key = check_signed(self._ca, identity, name, digest, signature, what)
        if self._peers is not None and identity != self.identity:
            self._peers.check(name, key)


def key_digest(key: pki.PublicKey) -> str:
    """What pins a key, hex."""
    return hashlib.sha256(pki.spki(key)).hexdigest()
