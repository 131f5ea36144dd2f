"""Updates on disk: one flat float32 row each, written as they come and read back tile by tile.

The file has no name, so nothing is left of it when the leader ends, however that happens. It is
read into one buffer and never mapped: a mapping would count its cached pages as the leader's memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.layout import Layout
from utils.errors import CheckpointError
from utils.files import remedy
from utils.wire.payload import Payload

#: A tile: its first element in the rows, and their values from there on, (rows, width) float32.
Tile = tuple[int, NDArray[np.float32]]

_ITEM = 4  # bytes of a float32
#: Memory for each value of a tile: 4 bytes for itself, 12 for what a rule makes of it.
_WORK = 16
_BLOCK = 1 << 18  # elements scaled at once


class Spool:
    """A file of rows of `layout.total` elements, in `folder` (None: the system's for temporary files).

    `budget` bounds the bytes in which rows are read and combined. Raises CheckpointError where the
    file can't be made.
    """

    def __init__(self, layout: Layout, folder: Path | None, budget: int) -> None:
        self._layout = layout
        self._budget = budget
        self._folder = folder or Path(tempfile.gettempdir())
        self._entries = {entry.name: entry for entry in layout.entries}
        self._scaled = frozenset(layout.parameters)
        self.count = 0  # rows that are whole
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives until close
        except OSError as error:
            raise self._failure(error) from error

    def append(self, payload: Payload, factor: float = 1.0) -> int:
        """Write the update, its parameters times `factor`, as the next row; returns its number.

        The payload must have passed `check_update`; what it has not, such as tensors that stay local,
        is zero in the row. Raises CheckpointError, for example when the disk is full; the rows before are untouched.
        """
        first = self.count * self._layout.total
        try:
            for tensor in payload.manifest.tensors:
                values = payload.data[tensor.start : tensor.stop].view(np.float32)
                entry = self._entries[tensor.name]
                self._write(values, first + entry.start, factor if entry in self._scaled else 1.0)
            os.ftruncate(self._file.fileno(), (first + self._layout.total) * _ITEM)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(first * _ITEM)
            raise self._failure(error) from error
        self.count += 1
        return self.count - 1

    def _write(self, values: NDArray[np.float32], place: int, factor: float) -> None:
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK]
            view = scaled(block, factor).data.cast("B")
            offset = (place + start) * _ITEM
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[written:], offset + written

    def rows(self, members: Sequence[int], start: int, stop: int) -> SpooledRows:
        """Elements `start` to `stop` of these rows, in this order."""
        return SpooledRows(self, members, start, stop)

    def tiles(self, members: Sequence[int], start: int, stop: int) -> Iterator[Tile]:
        """Blocks (members, width) that cover these elements; the same memory, filled anew each time."""
        width = max(1, min(stop - start, self._budget // (_WORK * max(1, len(members)))))
        memory = np.empty((len(members), width), np.float32)
        for first in range(start, stop, width):
            block = memory[:, : min(width, stop - first)]
            for member, values in zip(members, block, strict=True):
                self._read(values, member * self._layout.total + first)
            yield first - start, block

    def _read(self, values: NDArray[np.float32], place: int) -> None:
        view, offset = values.data.cast("B"), place * _ITEM
        while view:
            try:
                got = os.preadv(self._file.fileno(), [view], offset)
            except OSError as error:
                raise self._failure(error) from error
            if not got:
                raise CheckpointError(f"the spool of updates in {self._folder} was cut short; resume the run")
            view, offset = view[got:], offset + got

    def close(self) -> None:
        """Give the disk space back; calling it again changes nothing."""
        self._file.close()

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"can't keep updates in {self._folder}: {error.strerror}; {remedy(error)}, then resume the run"
        )


class SpooledRows:
    """Some rows of a spool, or a part of each, as a robust rule reads them."""

    def __init__(self, spool: Spool, members: Sequence[int], start: int, stop: int) -> None:
        self.n = len(members)
        self.size = stop - start
        self._spool = spool
        self._members = members
        self._range = start, stop

    def tiles(self, chosen: Sequence[int] | None = None) -> Iterator[Tile]:
        """Blocks of the chosen rows, all by default."""
        members = self._members if chosen is None else [self._members[row] for row in chosen]
        return self._spool.tiles(members, *self._range)


def scaled(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """`factor` times the values; rounded once, and they themselves where it is 1."""
    return values if factor == 1 else np.multiply(values, factor, dtype=np.float64).astype(np.float32)
