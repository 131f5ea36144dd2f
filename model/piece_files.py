"""Pieces of a model on the wire: each one a safetensors file, in float32 or in a codec."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from model.flat import Entry, Layout
from utils.codecs import Codec, Moment
from utils.codecs.base import State
from utils.codecs.compression import compressed, inflated, is_compressed
from utils.codecs.files import CODEC, File, check_file, decode_file, encode_file
from utils.codecs.pieces import Piece
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload, encode_header

PLAIN = "none"  # codec of pieces in float32
_MORE_BYTES = 1 << 16  # that a file may have beside its values: header, scales


class PieceFiles:
    """Reads and writes the pieces of vectors with `layout`, none of whose tensors stay local.

    The parameters are cut as `Layout.pieces` says; the float buffers, where there are any, are one piece more.
    In float32 a piece has its tensors by name, in the layout's order; the buffers always come so.
    """

    def __init__(self, layout: Layout, piece_bytes: int, codec: Codec | None, *, zstd: bool = False) -> None:
        assert not layout.local
        self._layout = layout
        self._codec = codec
        self._zstd = zstd
        pieces = layout.pieces(piece_bytes)
        if layout.buffers:
            shapes = tuple(entry.shape for entry in layout.buffers)
            pieces += (Piece(len(pieces), layout.parameter_count, layout.total, shapes),)
        self.pieces: tuple[Piece, ...] = pieces

    @cached_property
    def _entries(self) -> tuple[tuple[Entry, ...], ...]:
        """The tensors of each piece."""
        entries = iter(self._layout.entries)
        return tuple(tuple(next(entries) for _ in piece.shapes) for piece in self.pieces)

    def encoded(self, number: int) -> bool:
        """Whether piece `number` goes through the codec."""
        return self._codec is not None and self.pieces[number].start < self._layout.parameter_count

    def max_bytes(self, number: int) -> int:
        """Largest file of piece `number` that is taken."""
        piece = self.pieces[number]
        return 8 * (piece.stop - piece.start) + _MORE_BYTES + 256 * len(piece.shapes)

    def memory(self, number: int, total_bytes: int) -> int:
        """Bytes that a file of piece `number` takes while it is decoded."""
        piece = self.pieces[number]
        return total_bytes + (4 * (piece.stop - piece.start) if self._codec is not None else 0)

    def check(self, number: int, manifest: Manifest) -> None:
        """Raise PayloadError unless this is piece `number`; called before memory is taken for it."""
        if not (self.encoded(number) and is_compressed(manifest)):
            self._check_tensors(number, manifest)

    def _check_tensors(self, number: int, manifest: Manifest) -> None:
        codec = manifest.metadata.get(CODEC, PLAIN)
        if codec != PLAIN and not self.encoded(number):
            raise PayloadError(f"piece {number} is encoded with {codec[:40]!r}; here it is taken in float32")
        if codec != PLAIN:
            assert self._codec is not None
            check_file(self._codec, [self.pieces[number]], 0, manifest)
            return
        expected = [(entry.name, "F32", entry.shape) for entry in self._entries[number]]
        found = [(tensor.name, tensor.dtype, tensor.shape) for tensor in manifest.tensors]
        if found != expected:
            what = next((f for f, e in zip(found, expected, strict=False) if f != e), None)
            raise PayloadError(
                f"piece {number} has {_said(what) if what else f'{len(found)} tensors'}, expected are the "
                f"{len(expected)} float32 tensors from {expected[0][0]!r} on, in the model's order"
            )

    def decode(self, number: int, payload: Payload) -> Vector:
        """The values of piece `number` in a payload that `check` has passed.

        Raises PayloadError or LimitError for bytes that no codec writes. `is_plain` says whether they are values
        as they are or, coming from the leader, a change.
        """
        if self.encoded(number):
            payload = inflated(payload, max_bytes=self.max_bytes(number))
            self._check_tensors(number, payload.manifest)  # whatever it says of being compressed once more
        if is_plain(payload):
            return payload.data.view(np.float32)
        assert self._codec is not None
        return decode_file(self._codec, [self.pieces[number]], 0, payload)

    def plain(self, number: int, values: Vector, metadata: Mapping[str, str]) -> File:
        """The file of piece `number` in float32."""
        named = ((entry.name, "F32", entry.shape) for entry in self._entries[number])
        header = encode_header(named, {**metadata, CODEC: PLAIN})
        return File(header, np.ascontiguousarray(values).view(np.uint8))

    def encode(
        self, number: int, values: Vector, state: State, moment: Moment, metadata: Mapping[str, str]
    ) -> tuple[File, State]:
        """The file of piece `number` in the codec that it goes through, and the codec's new state.

        `state` has the codec's vectors of all pieces; the new one those of this piece alone.
        """
        assert self._codec is not None
        piece = self.pieces[number]
        own = {name: vector for name, vector in state.items() if name.startswith(f"{number}.")}
        nothing = np.empty(0, np.float32)
        file, after = encode_file(self._codec, [piece], values, nothing, own, moment, metadata)
        return compressed(file) if self._zstd else file, after


def is_plain(payload: Payload) -> bool:
    """Whether a payload holds its values as they are."""
    return payload.manifest.metadata.get(CODEC, PLAIN) == PLAIN


def _said(tensor: tuple[str, str, tuple[int, ...]]) -> str:
    name, dtype, shape = tensor
    return f"{name[:64]!r} as {dtype}{list(shape)}"
