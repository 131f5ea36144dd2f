"""Files of a model on the wire: whole, or a piece of it, each one a safetensors file, in float32 or in a codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.layout import Layout
from utils.codecs import Codec, Moment
from utils.codecs.base import Shape, State, count
from utils.codecs.compression import compressed, inflated, is_compressed
from utils.codecs.files import CODEC, File, check_file, decode_file, encode_file
from utils.codecs.pieces import Piece
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload, encode_header

PLAIN = "none"  # codec of files in float32
WHOLE = None  # in place of a piece's number: all of them in one file
_MORE_BYTES = 1 << 16  # that a file may have beside its values: header, scales
_HEADER_BYTES = 8 << 20
_MORE_HEADER = 16 << 10  # that a header may have beside its tensors: metadata


@dataclass(frozen=True)
class _Extent:
    """What a file holds: pieces that go through the codec, and buffers, which come as they are beside them."""

    tensors: Sequence[tuple[str, Shape]]  # by name, or parts of these
    coded: Sequence[Piece]
    buffers: int

    @property
    def size(self) -> int:
        """Values, with the buffers."""
        return count(tuple(shape for _, shape in self.tensors))

    @property
    def plain(self) -> list[tuple[str, str, Shape]]:
        """The tensors of the file in float32."""
        return [(name, "F32", shape) for name, shape in self.tensors]


class PieceFiles:
    """Reads and writes what `layout` shares of a vector: a piece alone, or WHOLE, which is all pieces at once.

    Values lie as `Layout.gathered` has them, cut as `Layout.pieces` says. In float32 a file has its tensors by
    name; a piece has them in the layout's order, and of one that is cut its part, (n,). The buffers always come so,
    and a file of changes of a model has them as they are.
    """

    def __init__(
        self,
        layout: Layout,
        piece_bytes: int,
        codec: Codec | None = None,
        *,
        cut_tensors: bool = False,
        zstd: bool = False,
        header_bytes: int = _HEADER_BYTES,
    ) -> None:
        self.layout = layout
        self.codec = codec
        self.pieces: tuple[Piece, ...] = layout.pieces(piece_bytes, cut_tensors=cut_tensors)
        self._zstd = zstd
        self._header_bytes = header_bytes

    @cached_property
    def _extents(self) -> Mapping[int | None, _Extent]:
        split, shared = self.layout.shared_parameter_count, self.layout.shared
        extents: dict[int | None, _Extent] = {}
        for piece in self.pieces:
            own = [(shared[i].name, shape) for i, shape in zip(piece.tensors, piece.shapes, strict=True)]
            extents[piece.number] = _Extent(own, [piece] if piece.start < split else [], 0)
        coded = [piece for extent in extents.values() for piece in extent.coded]
        tensors = [(entry.name, entry.shape) for entry in shared]
        return {**extents, WHOLE: _Extent(tensors, coded, self.pieces[-1].stop - split)}

    def encoded(self, number: int | None) -> bool:
        """Whether piece `number` goes through the codec."""
        return self.codec is not None and bool(self._extents[number].coded)

    def max_bytes(self, number: int | None) -> int:
        """Largest file of piece `number` that is taken."""
        extent = self._extents[number]
        return 8 * extent.size + _MORE_BYTES + 256 * len(extent.tensors)

    @cached_property
    def header_bytes(self) -> int:
        """Largest header that is taken, of a piece or of all: four times ours, for other writers and codecs.

        What JSON costs to read grows with its length, so it may have no more than the layout needs.
        """
        plain = encode_header(self._extents[WHOLE].plain)
        return min(self._header_bytes, 4 * len(plain) + _MORE_HEADER)

    def memory(self, number: int, total_bytes: int) -> int:
        """Bytes that a file of piece `number` takes while it is decoded."""
        return total_bytes + (4 * self._extents[number].size if self.codec is not None else 0)

    def check(self, number: int | None, manifest: Manifest) -> None:
        """Raise PayloadError unless this is piece `number`; called before memory is taken for it."""
        if not (self.encoded(number) and is_compressed(manifest)):
            self._check_tensors(number, manifest)

    def _check_tensors(self, number: int | None, manifest: Manifest) -> None:
        codec, extent = manifest.metadata.get(CODEC, PLAIN), self._extents[number]
        if codec != PLAIN and self.encoded(number):
            assert self.codec is not None
            check_file(self.codec, extent.coded, extent.buffers, manifest)
        elif codec != PLAIN:
            raise PayloadError(
                f"{_named(number)} is encoded with {codec[:40]!r}; here it is taken in float32"
            )
        elif number is WHOLE:
            self._check_names(manifest)
        else:
            self._check_order(number, manifest)

    def _check_names(self, manifest: Manifest) -> None:
        received = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors}
        expected = {name: ("F32", shape) for name, shape in self._extents[WHOLE].tensors}
        for name in [*expected, *received]:
            if received.get(name) != expected.get(name):
                raise PayloadError(
                    f"the leader's fragment and the one that is awaited differ in {name!r}; install the same "
                    "release on both sides, and use the same task"
                )

    def _check_order(self, number: int, manifest: Manifest) -> None:
        expected = self._extents[number].plain
        found = [(tensor.name, tensor.dtype, tensor.shape) for tensor in manifest.tensors]
        if found != expected:
            what = next((f for f, e in zip(found, expected, strict=False) if f != e), None)
            raise PayloadError(
                f"piece {number} has {_said(what) if what else f'{len(found)} tensors'}, expected are the "
                f"{len(expected)} float32 tensors from {expected[0][0]!r} on, in the model's order"
            )

    def decode(self, number: int | None, payload: Payload) -> Vector:
        """The values of piece `number` in a payload that `check` has passed.

        Raises PayloadError or LimitError for bytes that no codec writes. `is_plain` says whether they are values
        as they are or, coming from the leader, a change. A WHOLE file may have come without its buffers.
        """
        if self.encoded(number):
            payload = inflated(
                payload,
                max_bytes=self.max_bytes(number),
                header_bytes=self.header_bytes,
                # Whatever it says of being compressed once more.
                accept=lambda manifest: self._check_tensors(number, manifest),
            )
        extent = self._extents[number]
        if not is_plain(payload):
            assert self.codec is not None
            return decode_file(self.codec, extent.coded, extent.buffers, payload)
        names = [name for name, _ in extent.tensors]
        if [tensor.name for tensor in payload.manifest.tensors] == names:
            return payload.data.view(np.float32)
        arrays = payload.arrays()
        return np.concatenate([arrays[name].reshape(-1) for name in names]).view(np.float32)

    def apply(self, base: Vector, payload: Payload) -> Vector:
        """The model, (total,), that a WHOLE file that `check` has passed makes of `base`.

        In a codec it is a change, in float32 it has the values as they are. Raises as `decode` does.
        """
        values = self.decode(WHOLE, payload)
        if values.size != self.pieces[-1].stop:
            raise PayloadError("the change of the model lacks its buffers")
        if not is_plain(payload):
            split = self.layout.shared_parameter_count
            values[:split] += self.layout.gathered(base)[:split]
        return self.layout.merged(base, values)

    def plain(self, number: int | None, values: Vector, metadata: Mapping[str, str]) -> File:
        """The file of piece `number` in float32."""
        header = encode_header(self._extents[number].plain, {CODEC: PLAIN, **metadata})
        return File(header, np.ascontiguousarray(values).view(np.uint8))

    def encode(
        self, number: int | None, values: Vector, state: State, moment: Moment, metadata: Mapping[str, str]
    ) -> tuple[File, State]:
        """The file of piece `number` in the codec that it goes through, and the codec's new state.

        `state` has the codec's vectors of all pieces; the new one those of this piece alone. A piece is encoded
        to the same bytes alone and in the WHOLE file.
        """
        assert self.codec is not None
        extent = self._extents[number]
        prefixes = tuple(f"{piece.number}." for piece in extent.coded)
        own = {name: vector for name, vector in state.items() if name.startswith(prefixes)}
        parameters, buffers = np.split(values, [values.size - extent.buffers])
        file, after = encode_file(self.codec, extent.coded, parameters, buffers, own, moment, metadata)
        return compressed(file) if self._zstd else file, after


def is_plain(payload: Payload) -> bool:
    """Whether a payload holds its values as they are."""
    return payload.manifest.metadata.get(CODEC, PLAIN) == PLAIN


def _named(number: int | None) -> str:
    return "the file" if number is WHOLE else f"piece {number}"


def _said(tensor: tuple[str, str, tuple[int, ...]]) -> str:
    name, dtype, shape = tensor
    return f"{name[:64]!r} as {dtype}{list(shape)}"
