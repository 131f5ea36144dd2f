"""Encoded files: pieces of a model's update or change, and its buffers, as one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from utils.codecs.base import Codec, Moment, Spec, State
from utils.codecs.pieces import Piece
from utils.errors import PayloadError
from utils.seeds import derive_seed
from utils.vector import Vector
from utils.wire.checksum import crc32
from utils.wire.payload import DTYPES, Bytes, Manifest, Payload, encode_header, parse_header

CODEC = "codec"  # metadata key of the codec's spec
BUFFERS = "buffers"
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, eq=False)
class File:
    """A safetensors file in memory."""

    header: bytes
    body: Bytes  # (n,) uint8, contiguous: the tensors, one after the other

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> File:
        """The file of these tensors, in this order."""
        header = encode_header(
            ((name, _CODES[array.dtype], array.shape) for name, array in arrays.items()), metadata
        )
        body = np.empty(sum(array.nbytes for array in arrays.values()), np.uint8)
        start = 0
        for array in arrays.values():
            stop = start + array.nbytes
            body[start:stop] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            start = stop
        return cls(header, body)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the header says beside the tensors."""
        return parse_header(self.header).metadata

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + len(self.body)

    @cached_property
    def crc32(self) -> int:
        """CRC-32 of the file."""
        return crc32(self.body.data, crc32(self.header))


def encode_file(
    codec: Codec,
    pieces: Sequence[Piece],
    values: Vector,
    buffers: Vector,
    state: State,
    moment: Moment,
    metadata: Mapping[str, str],
) -> tuple[File, State]:
    """The file of `pieces`, whose values lie one after the other in `values`, (P,), and the new state.

    `buffers`, (B,), go along as they are; B = 0 leaves them out. The names in `state` are "{number}.{name}";
    a piece that has none there begins with `codec.init`, and those of other pieces are handed on. A piece
    is encoded to the same bytes alone and among others.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    after = dict(state)
    for piece, (start, stop) in zip(pieces, _places(pieces), strict=True):
        prefix = f"{piece.number}."
        before = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
        own = replace(moment, seed=derive_seed(moment.seed, "piece", piece.number))
        encoded, kept = codec.encode(
            values[start:stop], piece.shapes, before or codec.init(piece.shapes), own
        )
        arrays |= {prefix + name: array for name, array in encoded.items()}
        after |= {prefix + name: part for name, part in kept.items()}
    if len(buffers):
        arrays[BUFFERS] = buffers.astype("<f4", copy=False)
    return File.of(arrays, {**metadata, CODEC: codec.spec}), after


def check_file(codec: Codec, pieces: Sequence[Piece], buffers: int, manifest: Manifest) -> None:
    """Raise PayloadError unless `encode_file` could have made a file like this, with or without buffers.

    `buffers` counts their elements. Called before memory is taken for the file, so it also bounds its size.
    """
    if manifest.metadata.get(CODEC) != codec.spec:
        found = str(manifest.metadata.get(CODEC))[:64]
        raise PayloadError(f"file is encoded with {found!r}, expected was {codec.spec!r}; send it so")
    specs: dict[str, dict[str, Spec]] = {f"{piece.number}": {} for piece in pieces}
    for tensor in manifest.tensors:
        number, _, name = tensor.name.partition(".")
        spec = (tensor.dtype, tensor.shape)
        if number in specs:
            specs[number][name] = spec
        elif not (tensor.name == BUFFERS and buffers and spec == ("F32", (buffers,))):
            raise PayloadError(
                f"tensor {tensor.name[:64]!r} {tensor.dtype}{list(tensor.shape)} does not belong into this "
                f"file: it is of piece {', '.join(specs) or 'none'}, with {buffers} float32 buffers"
            )
    for piece in pieces:
        try:
            codec.check(specs[f"{piece.number}"], piece.shapes)
        except PayloadError as error:
            raise PayloadError(f"piece {piece.number}: {error}") from None


def decode_file(codec: Codec, pieces: Sequence[Piece], buffers: int, payload: Payload) -> Vector:
    """The values of `pieces`, then the buffers if they came along: (P + B,) or (P,) float32, new memory.

    Raises PayloadError for a file that `encode_file` can't have made. The buffers may hold any float32.
    """
    check_file(codec, pieces, buffers, payload.manifest)
    arrays = payload.arrays()
    tail = arrays.get(BUFFERS, np.empty(0, np.float32))
    places = _places(pieces)
    end = places[-1][1] if places else 0
    values = np.empty(end + len(tail), np.float32)
    for piece, (start, stop) in zip(pieces, places, strict=True):
        prefix = f"{piece.number}."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        try:
            values[start:stop] = codec.decode(own, piece.shapes)
        except PayloadError as error:
            raise PayloadError(f"piece {piece.number}: {error}") from None
    values[end:] = tail
    return values


def _places(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    """Where each piece begins and ends in values that hold these pieces alone."""
    places = []
    start = 0
    for piece in pieces:
        stop = start + piece.stop - piece.start
        places.append((start, stop))
        start = stop
    return places
