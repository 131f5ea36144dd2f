"""Records of a log of updates, sealed: a broker and its other readers neither see nor change what stands there."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from leader.distributed.cipher import Cipher
from leader.distributed.messages import UID_BYTES
from protos import log_pb2
from utils.errors import ForbiddenError

#: Largest record, so that it is within what brokers take unless told otherwise (1,048,588 bytes).
MOST_BYTES = 1_000_000


class Sealer:
    """Seals and opens the records of one run's log."""

    def __init__(self, key: bytes) -> None:
        """`key` is what the run's tickets are signed with."""
        self._cipher = Cipher(key, "flockstep log of updates")

    def seal(self, place: str, record: log_pb2.LogRecord) -> bytes:
        """The record for a `place`: a topic's kind and partition."""
        return self._cipher.seal(place, record.SerializeToString())

    def open(self, place: str, sealed: bytes) -> log_pb2.LogRecord:
        """The record; raises ForbiddenError for a forged or a damaged one, and for one of another place or run."""
        message = self._cipher.open(place, sealed[: MOST_BYTES + 1])
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
