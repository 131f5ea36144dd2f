"""Lossless compression of encoded files with zstd (RFC 8878), where it makes them smaller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import zstandard

from utils.codecs.files import File
from utils.errors import LimitError, PayloadError
from utils.wire.payload import Manifest, Payload, check_header_size, parse_header

COMPRESSION = "compression"  # metadata key
ZSTD = "zstd"  # its value, and the name of the tensor
_LEVEL = 1
_ANY_WINDOW = 1 << 31  # bytes; what is not written of it costs nothing


def compressed(file: File) -> File:
    """A file whose one tensor, `zstd` U8 (m,), inflates to all of `file`; `file` itself if that is no larger.

    Its metadata is that of `file` and "compression": "zstd".
    """
    frame = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=file.total_bytes)
    parts = [frame.compress(file.header), frame.compress(file.body.data), frame.flush()]
    arrays = {ZSTD: np.frombuffer(b"".join(parts), np.uint8)}
    smaller = File.of(arrays, {**file.metadata, COMPRESSION: ZSTD})
    return smaller if smaller.total_bytes < file.total_bytes else file


def is_compressed(manifest: Manifest) -> bool:
    """Whether a payload is a compressed file; raises PayloadError for one that `compressed` can't have made."""
    if COMPRESSION not in manifest.metadata:
        return False
    kind = manifest.metadata[COMPRESSION]
    if kind != ZSTD:
        raise PayloadError(f"file is compressed with {kind[:40]!r}; only {ZSTD!r} is known here")
    found = [(tensor.name, tensor.dtype, len(tensor.shape)) for tensor in manifest.tensors]
    if found != [(ZSTD, "U8", 1)]:
        raise PayloadError(f"a compressed file must have one tensor, {ZSTD!r} U8 of one dimension")
    return True


def inflated(
    payload: Payload,
    *,
    max_bytes: int,
    header_bytes: int,
    accept: Callable[[Manifest], None] = lambda manifest: None,
) -> Payload:
    """The file in a compressed one, with the checksum of the bytes that came; others as they are.

    Of the file its header comes first, and `accept` raises to refuse that, before memory is taken for the rest.
    Raises LimitError for one that inflates to more than `max_bytes`, or to a header of more than `header_bytes`,
    and PayloadError unless it is one zstd frame, without dictionary, that says its size, and no byte more.
    """
    if not is_compressed(payload.manifest):
        return payload
    frame = payload.data.data
    try:
        size = zstandard.frame_content_size(frame)  # -1: not said
        if size > max_bytes:
            raise LimitError(f"compressed file inflates to {size} bytes; at most {max_bytes} are taken")
        if size <= 0:
            raise PayloadError("compressed file does not say how large it is inflated")
        manifest = parse_header(_header(frame, header_bytes))
        _check(manifest, size, payload.manifest)
        accept(manifest)
        # The output is allocated once, in the size that was said; more or less than that is an error.
        data = zstandard.ZstdDecompressor().decompress(
            frame, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise PayloadError(f"compressed file is not one zstd frame: {error}") from None
    except MemoryError:
        raise LimitError(f"compressed file inflates to {size} bytes; that much memory is not free") from None
    return Payload(manifest, np.frombuffer(data, np.uint8)[manifest.header_bytes :], payload.crc32)


def _header(frame: memoryview, most: int) -> bytes:
    """The header of the file in a frame; no more of it is inflated than a block behind that."""
    reader = zstandard.ZstdDecompressor(max_window_size=_ANY_WINDOW).stream_reader(frame)
    start = reader.read(8)
    if len(start) == 8:
        size = check_header_size(start, most)
        rest = reader.read(size)
        if len(rest) == size:
            return start + rest
    raise PayloadError("compressed file is not one zstd frame: it ends in the header of what is in it")


def _check(manifest: Manifest, size: int, outer: Manifest) -> None:
    if manifest.total_bytes != size:
        raise PayloadError(f"compressed file inflates to {size} bytes, which are not one safetensors file")
    if {**manifest.metadata, COMPRESSION: ZSTD} != outer.metadata:
        raise PayloadError("compressed file and the file in it differ in their metadata")
