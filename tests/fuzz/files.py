"""Safetensors files to mutate, and what becomes of them; `tokens` are those of the JSON header."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.layout import Entry, Layout
from tests.fuzz.mutator import Mutator
from utils.wire.payload import encode_header

#: A model as small as one can be that has every case: several ranks, a scalar, an empty tensor, buffers.
LAYOUT = Layout(
    (
        Entry("conv.weight", (4, 3), 0, 12),
        Entry("conv.bias", (4,), 12, 4),
        Entry("head.scale", (), 16, 1),
        Entry("head.none", (0, 3), 17, 0),
    ),
    (Entry("norm.mean", (4,), 17, 4), Entry("norm.var", (4,), 21, 4)),
)
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[\[\]{}:,]|[^\s\[\]{}:,"]+|\s+')
#: Values in the size field of a header.
_SIZES = (0, 1, 2, 7, 8, 64, 1 << 16, (1 << 16) + 1, 1 << 31, 1 << 63, (1 << 64) - 1)


@dataclass(frozen=True)
class File:
    """One sound file: its header in tokens, and its data section."""

    tokens: tuple[str, ...]
    data: bytes

    @classmethod
    def of(cls, file: bytes) -> File:
        """The file in `file`."""
        end = 8 + int.from_bytes(file[:8], "little")
        return cls(tuple(_TOKEN.findall(file[8:end].decode())), file[end:])

    @property
    def whole(self) -> bytes:
        """The file as it is."""
        return _join("".join(self.tokens), self.data)


def mutated(mutator: Mutator, file: File) -> bytes:
    """`file` with a change to header, size field or data; now and then as it is."""
    match mutator.below(10):
        case 0:
            return file.whole
        case 1:
            return mutator.garble(file.whole)
        case 2:
            whole = file.whole
            size = (
                mutator.pick(_SIZES)
                if mutator.chance(0.5)
                else len(whole) - 8 - len(file.data) + mutator.below(9) - 4
            )
            return struct.pack("<Q", size) + whole[8:]
        case 3:
            return _join("".join(file.tokens), mutator.garble(file.data))
        case 4 | 5:
            return _join("".join(file.tokens), mutator.floats(file.data))
        case _:
            return _join(mutator.tokens(file.tokens), file.data)


def _join(text: str, data: bytes) -> bytes:
    encoded = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + data


def model_file(seed: int, *, scale: float = 1.0) -> bytes:
    """A model or update for LAYOUT in the layout's own order."""
    values = np.random.default_rng(seed).normal(scale=scale, size=LAYOUT.total).astype(np.float32)
    header = encode_header(((e.name, "F32", e.shape) for e in LAYOUT.entries), {"format": "pt"})
    return header + values.tobytes()


def update_files(mutator: Mutator, count: int) -> list[File]:
    """Sound updates for LAYOUT: in any order, with the buffers or without, with metadata or without."""
    files = []
    for seed in range(count):
        entries: Sequence[Entry] = LAYOUT.entries if mutator.chance(0.7) else LAYOUT.parameters
        if mutator.chance(0.6):
            entries = mutator.random.sample(entries, len(entries))
        values = np.random.default_rng(seed).normal(size=sum(e.size for e in entries)).astype(np.float32)
        metadata = {"codec": "none", "note": "\u00e4\x1b"} if mutator.chance(0.5) else None
        files.append(
            File.of(encode_header([(e.name, "F32", e.shape) for e in entries], metadata) + values.tobytes())
        )
    return files


def data_file(seed: int, examples: int = 4, height: int = 4) -> bytes:
    """A shard of `examples` images, `height` x 4 pixels, in 3 classes."""
    random = np.random.default_rng(seed)
    shape = (examples, 3, height, 4)
    header = encode_header([("images", "U8", shape), ("labels", "I64", (examples,))])
    images = random.integers(0, 256, shape, np.uint8)
    return header + images.tobytes() + random.integers(0, 3, examples, np.int64).tobytes()


def describe(file: bytes) -> str:
    """The start of a file, for a failure's text."""
    return json.dumps(repr(file[:400]))
