"""Masks: key streams that are added to integers modulo a power of two, and taken away again.

A stream is AES-256-CTR's (NIST SP 800-38A), its counter big-endian from 0, read as little-endian words as wide as
the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Word = TypeVar("Word", np.uint16, np.uint32, np.uint64)
_COUNTER_BYTES = 16  # of one block of AES
_TILE_BYTES = 512 << 10  # that all streams are added to at a time: in the cache, yet threads seldom meet


def add_streams(
    values: NDArray[Word], plus: Sequence[bytes], minus: Sequence[bytes] = (), *, threads: int = 1
) -> None:
    """Add the streams of 32-byte keys `plus` to (n,) contiguous values, and subtract those of `minus`, in place."""
    block = _COUNTER_BYTES // values.itemsize
    each = -(-values.size // (threads * block)) * block
    starts = range(0, values.size, max(each, 1))
    if threads == 1 or len(starts) < 2:
        _add(values, 0, plus, minus)
        return
    with ThreadPoolExecutor(len(starts)) as pool:
        parts = [
            pool.submit(_add, values[at : at + each], at * values.itemsize, plus, minus) for at in starts
        ]
    for part in parts:
        part.result()


def _add(values: NDArray[Word], offset: int, plus: Iterable[bytes], minus: Iterable[bytes]) -> None:
    """Add streams from their byte `offset` on, a multiple of 16; ciphers run without the interpreter's lock."""
    streams: list[tuple[np.ufunc, CipherContext]] = [(np.add, _stream(key, offset)) for key in plus]
    streams += [(np.subtract, _stream(key, offset)) for key in minus]
    size = _TILE_BYTES // values.itemsize
    zeros = bytes(_TILE_BYTES)
    room = np.empty(_TILE_BYTES + _COUNTER_BYTES - 1, np.uint8)  # the library wants as much
    words = room[:_TILE_BYTES].view(values.dtype)
    for start in range(0, values.size, size):
        tile = values[start : start + size]
        still = zeros if tile.size == size else zeros[: tile.nbytes]
        for combine, stream in streams:
            stream.update_into(still, room.data)
            combine(tile, words[: tile.size], out=tile)


def _stream(key: bytes, offset: int) -> CipherContext:
    return Cipher(AES(key), CTR((offset // _COUNTER_BYTES).to_bytes(_COUNTER_BYTES, "big"))).encryptor()
