"""What a log of updates is: records in partitions, each with an offset, durable once they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

_PATIENCE_S = 1.0


class Entry(NamedTuple):
    """A record to write."""

    partition: int  # -1 = as the key says
    key: bytes
    value: bytes


class InOrder:
    """The offsets of a partition as a reader gets them: which to read again, because one was passed over.

    A broker may show a record before the one that it stands behind, where several write at once (Tansu does); who read
    on would never see that one. What has not come after a while is not there, as where a log was trimmed.
    """

    def __init__(self) -> None:
        self._next = -1  # nothing was read yet
        self._until = 0.0  # to when what was passed over is waited for

    def passed_over(self, offset: int, now: float) -> int | None:
        """The offset to read on from in place of the record at `offset`; None where that is the next one."""
        if 0 <= self._next < offset:
            self._until = self._until or now + _PATIENCE_S
            if now < self._until:
                return self._next
        self._next, self._until = offset + 1, 0.0
        return None


class UpdateLog(Protocol):
    """Topics of partitions; each raises NotReadyError where the log can't be reached."""

    def make(self, topics: Mapping[str, int]) -> None:
        """Have these topics, with so many partitions, where they are not there yet."""
        ...

    def put(self, topic: str, entries: Iterable[Entry]) -> list[int]:
        """Write records; once this returns they are durable. Their offsets, in the order of `entries`."""
        ...

    def read(self, topic: str, partition: int, offset: int) -> bytes:
        """The record at an offset."""
        ...

    def scan(self, topic: str, partition: int, offset: int) -> Iterator[tuple[int, bytes] | None]:
        """All records from `offset` on with their offsets, without end; None where none has come for a while."""
        ...

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Delete what stands before these offsets, by partition."""
        ...
