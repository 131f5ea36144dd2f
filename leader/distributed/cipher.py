"""What foreign machines keep for a run: sealed, so that they neither see nor change it.

AES-256-GCM (NIST SP 800-38D) under a key of the run that the leader, its edges and its aggregators have; what is sealed
for one place opens in no other. Nonces are random, which is good for 2**32 messages of a run.
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from utils.errors import ForbiddenError

_NONCE_BYTES = 12
#: That a sealed message is longer by.
SEAL_BYTES = _NONCE_BYTES + 16


class Cipher:
    """Seals and opens what is kept for one purpose."""

    def __init__(self, key: bytes, purpose: str) -> None:
        """`key` is what the run's tickets are signed with."""
        self._cipher = AESGCM(hmac.digest(key, purpose.encode(), "sha256"))

    def seal(self, place: str, message: bytes) -> bytes:
        """The message for a `place`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, message, place.encode())

    def open(self, place: str, sealed: bytes) -> bytes:
        """The message; raises ForbiddenError for a forged or a damaged one, and for one of another place or run."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            raise ForbiddenError(
                f"a record in {place} that nobody of this run has written there, or that is damaged; it is passed over"
            ) from None
