"""Keys of one session of secure aggregation: agreed on by X25519, derived by HKDF, sealed by AES-256-GCM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from utils.errors import PayloadError

KEY_BYTES = 32
SESSION_BYTES = 16
_PREFIX = b"flockstep secagg 1 "
_NONCE = bytes(12)  # each key seals once


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 of a label and of parts whose lengths are part of it, 32 bytes."""
    whole = hashlib.sha256(_PREFIX + label.encode())
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()


def derive(secret: bytes, session: bytes, label: str, bound_to: bytes, size: int) -> bytes:
    """`size` bytes of key (HKDF-SHA256, RFC 5869) for one use, which `label` and `bound_to` name."""
    info = _PREFIX + label.encode() + bound_to
    return HKDF(algorithm=SHA256(), length=size, salt=session, info=info).derive(secret)


def public(private: bytes) -> bytes:
    """The X25519 public key (RFC 7748) of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, others: Iterable[bytes]) -> list[bytes]:
    """The secret of 32 bytes that a key pair shares with each of these; raises PayloadError for a key of low order."""
    own = X25519PrivateKey.from_private_bytes(private)  # as dear as an agreement
    try:
        return [own.exchange(X25519PublicKey.from_public_bytes(other)) for other in others]
    except ValueError:
        raise PayloadError("a public key that is none: it has low order or not 32 bytes") from None


class SharingKeys:
    """Seals shares of one learner for another, each way with a key of its own."""

    def __init__(self, secret: bytes, session: bytes, roster: bytes) -> None:
        """`secret` is what their share keys agreed on; both ends know the digest `roster`."""
        self._secret = secret
        self._session = session
        self._roster = roster

    def seal(self, sender: int, receiver: int, plain: bytes) -> bytes:
        """`plain` from seat `sender` to seat `receiver`, and a tag of 16 bytes; once each way, ever."""
        cipher, info = self._cipher(sender, receiver)
        return cipher.encrypt(_NONCE, plain, info)

    def unseal(self, sender: int, receiver: int, sealed: bytes) -> bytes:
        """What was sealed; raises PayloadError for anything else, or where the roster was another."""
        cipher, info = self._cipher(sender, receiver)
        try:
            return cipher.decrypt(_NONCE, sealed, info)
        except InvalidTag:
            raise PayloadError("sealed shares that don't open: another roster, order or learner") from None

    def _cipher(self, sender: int, receiver: int) -> tuple[AESGCM, bytes]:
        bound_to = self._roster + sender.to_bytes(4, "big") + receiver.to_bytes(4, "big")
        key = derive(self._secret, self._session, "share", bound_to, KEY_BYTES)
        return AESGCM(key), _PREFIX + b"share" + bound_to
