"""Sound pieces of updates to mutate: as they are, encoded, and compressed."""

from __future__ import annotations

import numpy as np
import zstandard

from leader.config import CodecConfig
from model.piece_files import PieceFiles
from tests.fuzz.files import LAYOUT, File
from utils.codecs import Moment, make_codec
from utils.codecs.compression import COMPRESSION, ZSTD
from utils.codecs.files import File as CodecFile
from utils.wire.payload import Payload, parse_header

VARIANTS = 4  # of each piece


class PiecePool:
    """Files of each piece of LAYOUT, for a run with this codec."""

    def __init__(self, config: CodecConfig) -> None:
        spec = config.up_spec
        assert spec is not None
        self.files = PieceFiles(LAYOUT, config.piece_bytes, make_codec(spec), cut_tensors=config.cut_tensors)
        self._pool = [self._variants(number) for number in range(len(self.files.pieces))]

    def __len__(self) -> int:
        return len(self._pool)

    def file(self, number: int, variant: int) -> File:
        """A sound file of piece `number`."""
        return self._pool[number][variant]

    def _variants(self, number: int) -> list[File]:
        """Variants of a piece: in float32, with metadata too, and if it goes through the codec, so, and compressed."""
        place, files = self.files.pieces[number], []
        for seed in range(VARIANTS):
            values = np.random.default_rng(seed).normal(size=place.stop - place.start).astype(np.float32)
            if seed >= 2 and self.files.encoded(number):
                file, _ = self.files.encode(number, values, {}, Moment(seed), {})
            else:
                file = self.files.plain(number, values, {"note": "\u00e4\x1b"} if seed % 2 else {})
            files.append(_compressed(file) if seed == 3 and self.files.encoded(number) else file)
        return [File.of(file.header + file.body.tobytes()) for file in files]

    def plain(self, number: int, file: bytes) -> bytes:
        """A piece in float32."""
        header = parse_header(file[: 8 + int.from_bytes(file[:8], "little")])
        body = np.frombuffer(file[header.header_bytes :], np.uint8)
        values = self.files.decode(number, Payload(header, body, 0))
        plain = self.files.plain(number, values, {})
        return plain.header + plain.body.tobytes()


def _compressed(file: CodecFile) -> CodecFile:
    """`file` compressed, though such a small one grows."""
    frame = zstandard.ZstdCompressor().compress(file.header + file.body.tobytes())
    metadata = {**file.metadata, COMPRESSION: ZSTD}
    return CodecFile.of({ZSTD: np.frombuffer(frame, np.uint8)}, metadata)
