"""What a log of updates is: records in partitions, each with an offset, durable once they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """A record to write."""

    partition: int  # -1 = as the key says
    key: bytes
    value: bytes


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
