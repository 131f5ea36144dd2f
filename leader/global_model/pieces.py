"""The down-link of pipelined steps: new weights, or their change, piece by piece."""

from __future__ import annotations

import numpy as np

from leader.config import RunConfig
from leader.config.codec_spec import down_spec
from leader.state import RunState
from model.flat import Layout
from model.piece_files import PieceFiles
from utils.codecs import Moment, make_codec
from utils.codecs.files import File
from utils.seeds import derive_seed
from utils.vector import Vector
from utils.wire.payload import Payload, parse_header


class DownPieces:
    """Encodes what `DownLink` encodes at once: what learners have in the end is the same, bit for bit."""

    def __init__(self, config: RunConfig, layout: Layout) -> None:
        spec = down_spec(config.codec)
        codec = make_codec(spec) if spec else None
        self.files = PieceFiles(layout, config.codec.piece_bytes, codec, zstd=config.codec.zstd)
        self._encoded = codec is not None
        self._seed = config.seed

    def encode(self, before: RunState, number: int, values: Vector) -> tuple[File, Vector | None]:
        """The file of piece `number` of the step from `before`; what learners then have, if not `values`."""
        piece = self.files.pieces[number]
        had = before.served[piece.start : piece.stop]
        if not self._encoded:
            return self.files.plain(number, values, {}), None
        if not (self.files.encoded(number) and np.isfinite(values).all() and np.isfinite(had).all()):
            return self.files.plain(number, values, {}), values
        moment = Moment(derive_seed(self._seed, "down", before.exchanges + 1))
        file, _ = self.files.encode(number, values - had, {}, moment, {"base": str(before.version)})
        public = self.files.decode(number, Payload(parse_header(file.header), file.body, file.crc32))
        public += had
        return file, public
