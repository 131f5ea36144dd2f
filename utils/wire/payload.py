"""Payloads: one safetensors file a stream, written and read with every byte bounded and checked.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header size,
a JSON header with name, dtype, shape and byte offsets of each tensor, then the tensor bytes.
Headers written here are padded with spaces so that the tensor bytes start at a multiple of 64.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from utils.errors import ChecksumError, LimitError, PayloadError
from utils.vector import fresh
from utils.wire.checksum import crc32
from utils.wire.framing import Buffer

Bytes = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)

_READ_BYTES = 8 << 20

DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("V2"),  # NumPy has no such number: two bytes, that of the sign last
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_ALIGN = 64
_MAX_RANK = 8
_SHORT_HEADER = 16 << 10  # bytes; read in 2.5 ms at the worst
MAX_TENSORS = 16_384
MAX_NAME = 256
_JOINED_BYTES = 1 << 20  # of an array that small chunks are copied into
#: Tensor of a model's payload that is no part of the model: SCAFFOLD's control variate of the leader, (P,).
CONTROL_VARIATE = "control_variate"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a payload: where its bytes lie in the data section."""

    name: str
    dtype: str  # safetensors name, such as "F32"
    shape: tuple[int, ...]
    start: int  # byte offsets in the data section
    stop: int


@dataclass(frozen=True)
class Manifest:
    """The header of a payload."""

    tensors: tuple[Tensor, ...]  # in order of their bytes
    metadata: Mapping[str, str]
    header_bytes: int  # with the 8 bytes of its size
    data_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of the whole file."""
        return self.header_bytes + self.data_bytes


def encode_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Header for tensors (name, dtype, shape) that lie one after the other, in this order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, dtype, shape in tensors:
        stop = start + math.prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def check_header_size(start: bytes, most: int) -> int:
    """Bytes of the JSON behind the first 8 of a file; raises LimitError for more than `most`."""
    size = int.from_bytes(start, "little")
    if not 2 <= size <= most:
        raise LimitError(f"safetensors header of {size} bytes; at most {most} are taken")
    return size


def parse_header(header: bytes, *, max_tensors: int = MAX_TENSORS, max_name: int = MAX_NAME) -> Manifest:
    """The manifest in a complete header (size field and JSON).

    Raises LimitError for more tensors or longer names than allowed, and PayloadError unless the
    tensors cover the data section exactly, without gap or overlap.
    """
    entries = _json_object(header[8:])
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise PayloadError("safetensors header: __metadata__ must map strings to strings")
    try:
        "".join((*entries, *metadata, *metadata.values())).encode()
    except UnicodeEncodeError:  # "\\ud800" in JSON: half a character, which no UTF-8 can hold
        raise PayloadError("safetensors header has text with a lone surrogate") from None
    if len(entries) > max_tensors:
        raise LimitError(f"safetensors header names {len(entries)} tensors; at most {max_tensors} are taken")
    longest = max(map(len, entries), default=0)
    if longest > max_name:
        raise LimitError(f"tensor name of {longest} characters; at most {max_name} are taken")
    tensors = sorted(
        (_tensor(name, entry) for name, entry in entries.items()), key=lambda t: (t.start, t.stop)
    )
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise PayloadError(
                f"tensor {tensor.name!r} starts at byte {tensor.start}, expected {end}: gap or overlap"
            )
        end = tensor.stop
    return Manifest(tuple(tensors), metadata, len(header), end)


def _json_object(text: bytes) -> dict[str, object]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"safetensors header is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise PayloadError("safetensors header must be a JSON object")
    return entries


def _whole(digits: str) -> int:
    return -1 if digits == "-0" else int(digits)  # -0 is no count, and would be read as 0


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise PayloadError("safetensors header names a key twice")
    return result


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _tensor(name: str, entry: object) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise PayloadError(f"tensor {name!r}: entry must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise PayloadError(f"tensor {name!r}: dtype {str(dtype)[:20]!r} is not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_is_count(n) for n in shape):
        raise PayloadError(f"tensor {name!r}: shape must be a list of at most {_MAX_RANK} sizes")
    if not _is_count(math.prod(n or 1 for n in shape)):
        # An empty tensor takes no bytes, yet NumPy refuses to shape one beyond its address space.
        raise PayloadError(f"tensor {name!r}: shape {shape} is too large")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise PayloadError(f"tensor {name!r}: data_offsets must be two byte positions")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise PayloadError(f"tensor {name!r}: {offsets[1] - offsets[0]} bytes do not hold {dtype}{shape}")
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


class Payload:
    """A received payload: manifest and the bytes of its data section, in one array or as they came."""

    def __init__(self, manifest: Manifest, data: Bytes | deque[Bytes], crc32: int) -> None:
        self.manifest = manifest
        self.crc32 = crc32
        self._chunks = deque((data,)) if isinstance(data, np.ndarray) else data

    @property
    def data(self) -> Bytes:
        """The data section, (data_bytes,) uint8; chunks are joined when it is first asked for."""
        chunks = self._chunks
        if len(chunks) != 1:
            joined, start = np.empty(self.manifest.data_bytes, np.uint8), 0
            while chunks:  # each is let go once it is copied, so that no second payload is in memory
                stop = start + chunks[0].size
                joined[start:stop] = chunks.popleft()
                start = stop
            chunks.append(joined)
        return chunks[0]

    def spans(self, dtype: type[T]) -> Iterator[tuple[int, NDArray[T]]]:
        """The data section as values of `dtype`, which all its tensors must have: pieces where they lie.

        Each comes with the number of values before it; there is at least one.
        """
        start = 0
        for chunk in self._chunks or (self.data,):
            values = chunk.view(dtype)
            yield start, values
            start += values.size

    def array(self, tensor: Tensor) -> NDArray[np.generic]:
        """The tensor as a view into the received bytes."""
        return self.data[tensor.start : tensor.stop].view(DTYPES[tensor.dtype]).reshape(tensor.shape)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All tensors by name, as views into the received bytes."""
        return {tensor.name: self.array(tensor) for tensor in self.manifest.tensors}


class _Body:
    """The data section as it comes: copied into one array, or in chunks of which those that can be are kept.

    Chunks smaller than `keep_from` are copied, into arrays as large as many of them, so that what a chunk costs
    beside its bytes stays small against them. Every edge between two is at a multiple of 8: no value is cut.
    """

    def __init__(self, size: int, keep_from: int | None, memory: Callable[[int], Bytes]) -> None:
        self.size = size
        self.filled = 0
        self.chunks: deque[Bytes] = deque()  # whole ones, but the last may still be filled
        self._keep_from = keep_from
        self._room = 0  # bytes that are free in the last chunk
        self._memory = memory
        if keep_from is None:
            self._make_room(size)

    def feed(self, chunk: Bytes) -> None:
        """Take the next bytes; there must not be more than fit."""
        while chunk.size:
            if not self._room:
                if self._keeps(chunk):
                    self.chunks.append(chunk)
                    self.filled += chunk.size
                    return
                self._make_room(min(self.size - self.filled, _JOINED_BYTES))
            taken = min(chunk.size, self._room)
            last = self.chunks[-1]
            start = last.size - self._room
            last[start : start + taken] = chunk[:taken]
            self._room -= taken
            self.filled += taken
            chunk = chunk[taken:]

    @property
    def taken(self) -> list[Bytes]:
        """What has been taken so far, where it lies."""
        *whole, last = self.chunks or (np.empty(0, np.uint8),)
        return [*whole, last[: last.size - self._room]]

    def _keeps(self, chunk: Bytes) -> bool:
        end = self.filled + chunk.size
        return (
            self._keep_from is not None
            and chunk.size >= self._keep_from
            and not chunk.flags.writeable  # its bytes are to be the same tomorrow
            and (end % 8 == 0 or end == self.size)
        )

    def _make_room(self, size: int) -> None:
        self.chunks.append(self._memory(size))
        self._room = size


class PayloadReader:
    """Collects the chunks of one stream; memory is taken only after the header is accepted.

    `accept` is called with the manifest before the data section is allocated and raises to
    refuse it. With `keep_from` chunks of at least so many bytes that can't change (`bytes`) are kept as they are,
    not copied into one array; else `memory` makes that array. Without `checksum` no CRC-32 is taken; the
    payload says 0 then.

    Raises LimitError or PayloadError on bytes that break the format or the limits.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        header_bytes: int,
        accept: Callable[[Manifest], None] = lambda manifest: None,
        max_tensors: int = MAX_TENSORS,
        max_name: int = MAX_NAME,
        keep_from: int | None = None,
        memory: Callable[[int], Bytes] = fresh,
        checksum: bool = True,
    ) -> None:
        self._max_bytes = max_bytes
        self._header_limit = header_bytes
        self._accept = accept
        self._max_tensors = max_tensors
        self._max_name = max_name
        self._head = bytearray()
        self._manifest: Manifest | None = None
        self._body = _Body(0, None, fresh)
        self._keep_from = keep_from
        self._memory = memory
        self._checksum = checksum
        self._crc = 0
        self._failed = False

    @property
    def received(self) -> int:
        """Bytes taken so far."""
        return len(self._head) + self._body.filled

    @property
    def taken(self) -> list[Buffer]:
        """These bytes, where they lie; what comes later changes none of them."""
        return [bytes(self._head), *(part.data for part in self._body.taken)]

    @property
    def resumable(self) -> bool:
        """Whether sound bytes are here and more of them are missing."""
        return not self._failed and self._manifest is not None and self._body.filled < self._body.size

    def long_header_in(self, chunk: Buffer) -> bool:
        """Whether `feed` would read a header with this chunk that takes milliseconds."""
        if self._manifest is not None:
            return False
        start = (*self._head[:8], *memoryview(chunk).cast("B")[:8])[:8]
        return _SHORT_HEADER < int.from_bytes(start, "little") <= len(self._head) + len(chunk) - 8

    def feed(self, chunk: Buffer) -> None:
        """Take the next bytes of the stream."""
        self._failed = True  # until these bytes have proved sound
        view = memoryview(chunk).cast("B")
        if self._checksum:
            self._crc = crc32(view, self._crc)
        while self._manifest is None and len(view):
            view = self._feed_header(view)
        if self._body.filled + len(view) > self._body.size:
            raise PayloadError(f"payload goes on after its {self._body.size} bytes of tensor data")
        self._body.feed(np.frombuffer(view, np.uint8))
        self._failed = False

    def _feed_header(self, view: memoryview) -> memoryview:
        wanted = 8 if len(self._head) < 8 else 8 + int.from_bytes(self._head[:8], "little")
        taken = min(wanted - len(self._head), len(view))
        self._head += view[:taken]
        if len(self._head) == 8:
            check_header_size(bytes(self._head), self._header_limit)
        elif len(self._head) == wanted > 8:
            self._open(
                parse_header(bytes(self._head), max_tensors=self._max_tensors, max_name=self._max_name)
            )
        return view[taken:]

    def _open(self, manifest: Manifest) -> None:
        if manifest.total_bytes > self._max_bytes:
            raise LimitError(f"payload of {manifest.total_bytes} bytes; at most {self._max_bytes} are taken")
        self._accept(manifest)
        try:
            self._body = _Body(manifest.data_bytes, self._keep_from, self._memory)
        except MemoryError:
            raise LimitError(
                f"payload of {manifest.total_bytes} bytes; that much memory is not free"
            ) from None
        self._manifest = manifest

    def finish(self, crc32: int | None = None) -> Payload:
        """The whole payload; raises PayloadError if cut short, ChecksumError if `crc32` differs."""
        if self._manifest is None:
            raise PayloadError(f"payload ended after {len(self._head)} bytes, inside its header")
        if self._body.filled != self._body.size:
            raise PayloadError(
                f"payload ended after {self._body.filled} of {self._body.size} bytes of tensor data"
            )
        if crc32 is not None and crc32 != self._crc:
            raise ChecksumError(
                f"payload has CRC-32 {self._crc:08x}, announced was {crc32:08x}; send it again"
            )
        return Payload(self._manifest, self._body.chunks, self._crc)


def read_payload(path: Path) -> Payload:
    """The payload that a file holds; raises OSError, or what PayloadReader does."""
    size = path.stat().st_size
    reader = PayloadReader(max_bytes=size, header_bytes=size)
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            reader.feed(chunk)
    return reader.finish()
