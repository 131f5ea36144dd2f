"""New weights on their way: pieces come one after the other, into memory beside the model that is in use."""

from __future__ import annotations

import numpy as np

from model.piece_files import PieceFiles, is_plain
from protos import leader_pb2
from utils.errors import PayloadError
from utils.vector import Recycled, Vector
from utils.wire.payload import Bytes, Manifest, PayloadReader

_HEADER_BYTES = 8 << 20


class Arriving:
    """Puts the pieces of one step's weights together; raises PayloadError or ChecksumError for others."""

    def __init__(self, files: PieceFiles) -> None:
        self._files = files
        self._total = files.pieces[-1].stop
        self._reader: PayloadReader | None = None
        self._memory = Recycled(3)  # what is trained on, what an update is held of, what comes
        self.clear()

    def clear(self) -> None:
        """Forget what has come."""
        self._vector: Vector | None = None
        self._came: set[int] = set()

    def begin(self, piece: leader_pb2.Piece, base: Vector | None) -> None:
        """A piece is announced; `base`, (total,), is what it is a change of, if it is one."""
        if self._reader is not None:
            raise PayloadError("the leader announced a piece in the middle of another")
        if piece.number >= len(self._files.pieces):
            raise PayloadError(f"the leader announced piece {piece.number} of {len(self._files.pieces)}")
        number, most = piece.number, self._files.max_bytes(piece.number)

        def accept(manifest: Manifest) -> None:
            self._files.check(number, manifest)
            if manifest.total_bytes != piece.total_bytes:
                raise PayloadError(f"piece {number} is not as large as announced")

        place = self._files.pieces[number]
        values = self._arrived()[place.start : place.stop].view(np.uint8)

        def memory(size: int) -> Bytes:
            """A piece in float32 arrives where it belongs."""
            return values if size == values.size else np.empty(size, np.uint8)

        self._piece, self._base = piece, base
        self._reader = PayloadReader(
            max_bytes=min(most, piece.total_bytes),
            header_bytes=_HEADER_BYTES,
            accept=accept,
            memory=memory,
        )

    def _arrived(self) -> Vector:
        if self._vector is None:
            self._vector = self._memory.empty(4 * self._total).view(np.float32)
        return self._vector

    def feed(self, chunk: memoryview) -> None:
        """Take the next bytes of the piece that was announced."""
        if self._reader is None:
            if len(chunk):
                raise PayloadError("the leader sent bytes that belong to no piece")
            return
        self._reader.feed(chunk)
        if self._reader.received == self._piece.total_bytes:
            self._finish(self._reader)
            self._reader = None

    def _finish(self, reader: PayloadReader) -> None:
        number = self._piece.number
        piece = self._files.pieces[number]
        payload = reader.finish(self._piece.crc32)
        values = self._files.decode(number, payload)
        place = self._arrived()[piece.start : piece.stop]
        if is_plain(payload):
            if not np.shares_memory(values, place):
                place[:] = values
        elif self._base is None:
            raise PayloadError("the leader sent a change of the model, but no update of this learner is open")
        else:
            np.add(values, self._base[piece.start : piece.stop], out=place)
        self._came.add(number)

    def take(self) -> Vector | None:
        """The weights, (total,), if all pieces have come; the next ones are of another step."""
        vector = self._vector if len(self._came) == len(self._files.pieces) else None
        self.clear()
        return vector
