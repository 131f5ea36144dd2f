"""Records of a log of updates: sealed, so that a broker and its other readers neither see nor change what stands there.

AES-256-GCM (NIST SP 800-38D) under a key of the run that the leader, its edges and its aggregators have; what is sealed
for one partition opens in no other. Nonces are random, which is good for 2**32 records of a run.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

from leader.distributed.messages import UID_BYTES
from protos import log_pb2
from utils.errors import ForbiddenError

#: Largest record, so that it is within what brokers take unless told otherwise (1,048,588 bytes).
MOST_BYTES = 1_000_000
_NONCE_BYTES = 12


class Sealer:
    """Seals and opens the records of one run's log."""

    def __init__(self, key: bytes) -> None:
        """`key` is what the run's tickets are signed with."""
        self._cipher = AESGCM(hmac.digest(key, b"flockstep log of updates", "sha256"))

    def seal(self, place: str, record: log_pb2.LogRecord) -> bytes:
        """The record for a `place`: a topic's kind and partition."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, record.SerializeToString(), place.encode())

    def open(self, place: str, sealed: bytes) -> log_pb2.LogRecord:
        """The record; raises ForbiddenError for a forged or a damaged one, and for one of another place or run."""
        try:
            if len(sealed) > MOST_BYTES:
                raise InvalidTag
            message = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            raise ForbiddenError(
                f"a record in {place} that nobody of this run has written there, or that is damaged; it is passed over"
            ) from None
        try:
            return log_pb2.LogRecord.FromString(message)
        except DecodeError:  # who has the key wrote it
            raise ForbiddenError(
                f"a record in {place} can't be read; install the same release on all"
            ) from None


def joined(uids: Iterable[bytes]) -> bytes:
    """Uids one after the other."""
    return b"".join(sorted(uids))


def uids_of(names: bytes) -> list[bytes]:
    """The uids that are one after the other, in their order."""
    return [names[start : start + UID_BYTES] for start in range(0, len(names), UID_BYTES)]
