"""A partial sum on its way: slices of 64-bit words, each in as many bytes a word as its largest one needs.

In a slice all words' lowest bytes come first, then those above them: four, two and one together, as the width has
them. Of 5 bytes a word that is all low halves, then all fifth bytes. What is no such words is sent as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from protos import edge_pb2
from utils.errors import ChecksumError, PayloadError

SLICE_BYTES = 1 << 20  # as the sum has them
_WORD = 8
Bytes = NDArray[np.uint8]


def _planes(width: int) -> Iterator[tuple[int, int]]:
    """Where in a word bytes begin that lie together, and how many they are; the highest last."""
    at = 0
    for size in (4, 2, 1):
        if width & size:
            yield at, size
            at += size


def _width(words: NDArray[np.int64]) -> int:
    largest = max(int(words.max()), ~int(words.min()))
    return largest.bit_length() // 8 + 1  # one bit more is the sign


def packed(data: Bytes, crc32: int) -> edge_pb2.SumChunk:
    """The message of a slice, which holds at least a byte; `crc32` is that of all slices before."""
    width = _WORD if data.size % _WORD else _width(data.view(np.int64))
    if width == _WORD:
        chunk = data.tobytes()
    else:
        planes = (data.view(f"<u{size}")[at // size :: _WORD // size] for at, size in _planes(width))
        chunk = b"".join(np.ascontiguousarray(plane).data for plane in planes)
    return edge_pb2.SumChunk(chunk=chunk, width=width, crc32=zlib.crc32(chunk, crc32))


class SumReader:
    """A sum of so many bytes, as its slices come; raises PayloadError or ChecksumError for what can't be one."""

    def __init__(self, size: int) -> None:
        self._data: Bytes = np.empty(size, np.uint8)
        self._at = 0
        self._crc32 = 0

    def take(self, message: edge_pb2.SumChunk) -> int:
        """The next slice; bytes that came of it."""
        chunk, width = message.chunk, message.width
        if not (chunk and 0 < width <= _WORD) or (width < _WORD and len(chunk) % width):
            raise PayloadError(f"its sum has {len(chunk)} bytes in words of {width}")
        size = len(chunk) if width == _WORD else len(chunk) // width * _WORD
        if self._at + size > self._data.size:
            raise PayloadError("its sum has more bytes than it said")
        self._crc32 = zlib.crc32(chunk, self._crc32)
        if self._crc32 != message.crc32:
            raise ChecksumError("its sum came damaged")
        _unpack(chunk, width, self._data[self._at : self._at + size])
        self._at += size
        return len(chunk)

    def whole(self) -> Bytes:
        """All of it."""
        if self._at < self._data.size:
            raise ChecksumError("its sum came short")
        return self._data


def _unpack(chunk: bytes, width: int, out: Bytes) -> None:
    if width == _WORD:
        out[:] = np.frombuffer(chunk, np.uint8)
        return
    words = out.view(np.int64)
    *lower, (top, size) = _planes(width)
    words[:] = np.frombuffer(chunk, f"<i{size}", words.size, words.size * top)  # with its sign
    words <<= 8 * top
    for at, size in lower:
        plane = np.frombuffer(chunk, f"<u{size}", words.size, words.size * at)
        out.view(f"<u{size}")[at // size :: _WORD // size] = plane
