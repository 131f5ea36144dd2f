"""Decoding updates: from the tensors of a codec to float32 by parameter name, as plain learners send them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from leader.aggregation.aggregate import check_update
from leader.config import CodecConfig
from leader.config.codec_spec import up_spec
from model.flat import Layout
from model.fragments import Fragments
from utils.codecs import make_codec
from utils.codecs.compression import inflated, is_compressed
from utils.codecs.files import check_file, decode_file
from utils.errors import PayloadError
from utils.wire.payload import Manifest, Payload, encode_header, parse_header

_MORE_BYTES = 1 << 20  # that a compressed file may have beside its tensors: header, scales


class Decoder:
    """Reads a run's updates: in the run's codec, or in float32; in streamed runs, of the fragment that each names.

    Raises ConfigError where the model can't be cut into so many `fragments`.
    """

    def __init__(self, config: CodecConfig, layout: Layout, fragments: int = 0) -> None:
        layouts = enumerate(Fragments(layout, fragments).layouts)
        self._readers = {str(number) if fragments else "": _Reader(config, one) for number, one in layouts}

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless this is an update of the model; called before memory is taken for it.

        That it is of the fragment whose round it is, is checked where it is added.
        """
        self._reader(manifest).check(manifest)

    def decode(self, payload: Payload) -> Payload:
        """The update in float32; one that came so is left as it is.

        Raises PayloadError or LimitError for bytes that the codec can't have written.
        """
        return self._reader(payload.manifest).decode(payload)

    def _reader(self, manifest: Manifest) -> _Reader:
        name = manifest.metadata.get("fragment", "")
        if name not in self._readers:
            count = len(self._readers)
            ours = "the whole model" if "" in self._readers else f"a fragment from 0 to {count - 1}"
            raise PayloadError(
                f"update is of fragment {name[:20]!r} (metadata); this run takes those of {ours} (streaming.fragments)"
            )
        return self._readers[name]


class _Reader:
    """Reads updates of what one layout shares."""

    def __init__(self, config: CodecConfig, layout: Layout) -> None:
        spec = up_spec(config)
        self._codec = make_codec(spec) if spec else None
        self._layout = layout
        self._pieces = layout.pieces(config.piece_bytes)
        split = layout.parameter_count
        self._buffers = sum(entry.size for entry in layout.shared if entry.start >= split)

    def check(self, manifest: Manifest) -> None:
        """Raise PayloadError unless this is an update of the model; called before memory is taken for it."""
        codec = manifest.metadata.get("codec", "none")
        if codec == "none":
            check_update(self._layout, manifest)
        elif self._codec is None or codec != self._codec.spec:
            ours = f"none or {self._codec.spec}" if self._codec else "none"
            raise PayloadError(f"update is encoded with {codec[:40]!r}; this run takes {ours} (codec.up)")
        elif not is_compressed(manifest):
            check_file(self._codec, self._pieces, self._buffers, manifest)

    def decode(self, payload: Payload) -> Payload:
        """The update in float32; one that came so is left as it is.

        Raises PayloadError or LimitError for bytes that the codec can't have written.
        """
        if self._codec is None or payload.manifest.metadata.get("codec", "none") == "none":
            return payload
        crc32 = payload.crc32
        payload = inflated(payload, max_bytes=4 * self._layout.total + _MORE_BYTES)
        values = decode_file(self._codec, self._pieces, self._buffers, payload)
        parameters = self._pieces[-1].stop
        with_buffers = values.size > parameters
        return Payload(_manifest(self._layout, with_buffers), values.view(np.uint8), crc32)


@lru_cache(maxsize=8)
def _manifest(layout: Layout, with_buffers: bool) -> Manifest:
    """Of an update in float32, in the layout's order."""
    split = layout.parameter_count
    entries = (entry for entry in layout.shared if with_buffers or entry.start < split)
    return parse_header(encode_header((entry.name, "F32", entry.shape) for entry in entries))
