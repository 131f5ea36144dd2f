"""Decoding updates: from the tensors of a codec to float32 by parameter name, as plain learners send them."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from leader.aggregation.aggregate import check_update
from leader.config import CodecConfig
from model.fragments import Fragments
from model.layout import Layout
from model.piece_files import PLAIN, WHOLE, PieceFiles, is_plain
from utils.codecs import make_codec
from utils.codecs.files import CODEC
from utils.errors import PayloadError
from utils.wire.payload import Manifest, Payload, encode_header, parse_header


class UpdateReader(Protocol):
    """Reads the updates of a run."""

    @property
    def max_bytes(self) -> int:
        """Most bytes of an update's tensors."""
        ...

    @property
    def header_bytes(self) -> int:
        """Most bytes that the header of an update has."""
        ...

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless this can be an update; called before memory is taken for it."""
        ...

    def decode(self, payload: Payload) -> Payload:
        """The update as its aggregator adds it; raises PayloadError or LimitError."""
        ...


class Decoder:
    """Reads a run's updates: in the run's codec, or in float32; in streamed runs, of the fragment that each names.

    Raises ConfigError where the model can't be cut into so many `fragments`.
    """

    def __init__(
        self, config: CodecConfig, layout: Layout, fragments: int = 0, header_bytes: int = 1 << 20
    ) -> None:
        spec = config.up_spec
        self.max_bytes = 4 * layout.total
        self._codec = make_codec(spec) if spec else None
        self._files = {
            str(number) if fragments else "": PieceFiles(
                one,
                config.piece_bytes,
                self._codec,
                cut_tensors=config.cut_tensors,
                header_bytes=header_bytes,
            )
            for number, one in enumerate(Fragments(layout, fragments).layouts)
        }

    @property
    def files(self) -> PieceFiles:
        """How updates of the whole model are read, and pieces of them."""
        return self._files[""]

    @property
    def header_bytes(self) -> int:
        """Largest header of an update that is taken, the 8 bytes of its size apart."""
        return max(files.header_bytes for files in self._files.values())

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless this is an update of the model; called before memory is taken for it.

        That it is of the fragment whose round it is, is checked where it is added.
        """
        files, codec = self._files_of(manifest), manifest.metadata.get(CODEC, PLAIN)
        if codec == PLAIN:
            check_update(files.layout, manifest)
        elif self._codec is None or codec != self._codec.spec:
            ours = f"none or {self._codec.spec}" if self._codec else "none"
            raise PayloadError(f"update is encoded with {codec[:40]!r}; this run takes {ours} (codec.up)")
        else:
            files.check(WHOLE, manifest)

    def decode(self, payload: Payload) -> Payload:
        """The update in float32; one that came so is left as it is.

        Raises PayloadError or LimitError for bytes that the codec can't have written.
        """
        if is_plain(payload):
            return payload
        files, crc32 = self._files_of(payload.manifest), payload.crc32
        values = files.decode(WHOLE, payload)
        with_buffers = values.size > files.layout.shared_parameter_count
        return Payload(_manifest(files.layout, with_buffers), values.view(np.uint8), crc32)

    def _files_of(self, manifest: Manifest) -> PieceFiles:
        name = manifest.metadata.get("fragment", "")
        if name not in self._files:
            count = len(self._files)
            ours = "the whole model" if "" in self._files else f"a fragment from 0 to {count - 1}"
            raise PayloadError(
                f"update is of fragment {name[:20]!r} (metadata); this run takes those of {ours} (streaming.fragments)"
            )
        return self._files[name]


@lru_cache(maxsize=8)
def _manifest(layout: Layout, with_buffers: bool) -> Manifest:
    """Of an update in float32, in the layout's order."""
    split = layout.parameter_count
    entries = (entry for entry in layout.shared if with_buffers or entry.start < split)
    return parse_header(encode_header((entry.name, "F32", entry.shape) for entry in entries))
