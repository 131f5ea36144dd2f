"""Changes of the model: what a learner that has one version gets in place of the next.

Both sides do the same float32 arithmetic, so what learners have is known to the leader bit for bit. What a
codec loses of one change is in the next: it is counted from what learners have, not from the last model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from model.flat import Layout
from utils.codecs import Codec, Moment
from utils.codecs.compression import inflated, is_compressed
from utils.codecs.files import File, check_file, decode_file, encode_file
from utils.codecs.pieces import Piece
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload, PayloadReader


@dataclass(frozen=True)
class Changes:
    """Encodes and applies changes of models with `layout`; buffers travel as they are, not as a difference."""

    layout: Layout
    codec: Codec
    piece_bytes: int

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What is encoded at once."""
        return self.layout.pieces(self.piece_bytes)

    def encode(
        self, base: Vector, target: Vector, moment: Moment, metadata: Mapping[str, str]
    ) -> tuple[File, Vector]:
        """The change from `base` to `target`, (total,) each, and the model that it makes of `base`."""
        had, _ = self.layout.gathered(base)
        wanted, buffers = self.layout.gathered(target)
        file, _ = encode_file(self.codec, self.pieces, wanted - had, buffers, {}, moment, metadata)
        return file, self.apply(base, _read(file))

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless a payload with this manifest can be a change."""
        if not is_compressed(manifest):
            check_file(self.codec, self.pieces, self._buffers, manifest)

    def apply(self, base: Vector, payload: Payload) -> Vector:
        """The model, (total,) in new memory, that a change that `check` has passed makes of `base`.

        Raises PayloadError for bytes that no codec writes.
        """
        most = 8 * self.layout.total + (1 << 20)
        payload = inflated(payload, max_bytes=most)
        shared = decode_file(self.codec, self.pieces, self._buffers, payload)
        had, buffers = self.layout.gathered(base)
        if shared.size != had.size + buffers.size:
            raise PayloadError("the change of the model lacks its buffers")
        shared[: had.size] += had
        vector = base.copy()
        self.layout.scatter(vector, shared)
        return vector

    @cached_property
    def _buffers(self) -> int:
        split = self.layout.parameter_count
        return sum(entry.size for entry in self.layout.shared if entry.start >= split)


def _read(file: File) -> Payload:
    reader = PayloadReader(max_bytes=file.total_bytes, header_bytes=file.total_bytes)
    reader.feed(file.header)
    reader.feed(file.body.data)
    return reader.finish()
