"""Chunk messages framed by hand: byte for byte what protobuf writes for `bytes chunk = 1`.

A payload stream carries hundreds of megabytes; building a message object per chunk costs more
than the network does. `frame` writes the wire format directly, `unframe` returns a view into
the received message where it holds exactly one chunk and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BYTES = 2  # wire type (length-delimited)
_TAG = 1 << 3 | _BYTES  # field 1
_FIRST_FIELDS = 16
Buffer = bytes | bytearray | memoryview


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(*parts: Buffer) -> bytes:
    """The message whose chunk is the concatenation of `parts`; empty as protobuf omits defaults."""
    size = sum(len(part) for part in parts)
    if size == 0:
        return b""
    return b"".join((bytes((_TAG,)), _varint(size), *parts))


def unframe(message: bytes) -> memoryview | None:
    """The chunk inside `message` without a copy, or None if it is not exactly one canonical chunk."""
    if not message:
        return memoryview(b"")
    if message[0] != _TAG:
        return None
    size, start = _length(message, 1)
    view = memoryview(message)[start:]
    canonical = start == 2 or message[start - 1] > 0
    return view if canonical and len(view) == size > 0 else None


def _length(message: bytes, position: int) -> tuple[int, int]:
    """The size that stands at `position`, and where it ends; 0 and the message's end if none does."""
    size = 0
    for place, byte in enumerate(message[position : position + 5]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return size, position + place + 1
    return 0, len(message)


def beside_chunk(message: bytes) -> int:
    """Bytes of a message that are of no chunk, which must be one of the first fields; nothing is parsed for it."""
    beside, position = len(message), 0
    for _ in range(_FIRST_FIELDS):
        # Where the tag or the field is anything but bytes, a parser may go on elsewhere: all the rest counts.
        if position >= len(message) or message[position] & 0x87 != _BYTES:
            break
        tag, (size, start) = message[position], _length(message, position + 1)
        position = start + size
        if tag == _TAG and position <= len(message):
            beside -= size
    return beside


def frames(header: bytes, body: Buffer, chunk_bytes: int) -> Iterator[bytes]:
    """`header` and `body` as framed chunks of at most `chunk_bytes` of payload each.

    With a header and a chunk size that are multiples of 64 every tensor element stays whole.
    """
    view = memoryview(body).cast("B")
    first = max(0, min(chunk_bytes - len(header), len(view)))
    if len(header) > chunk_bytes:
        for start in range(0, len(header), chunk_bytes):
            yield frame(header[start : start + chunk_bytes])
    else:
        yield frame(header, view[:first])
    for start in range(first, len(view), chunk_bytes):
        yield frame(view[start : start + chunk_bytes])


def rechunk(pieces: Iterable[Buffer], chunk_bytes: int) -> Iterator[bytes]:
    """Any pieces, re-cut to framed chunks of exactly `chunk_bytes` (the last may be shorter)."""
    pending: list[memoryview] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while size + len(view) >= chunk_bytes:
            cut = chunk_bytes - size
            yield frame(*pending, view[:cut])
            view, pending, size = view[cut:], [], 0
        if len(view):
            pending.append(view)
            size += len(view)
    if size:
        yield frame(*pending)


def framed_bytes(size: int, chunk_bytes: int) -> int:
    """Bytes of the messages that `rechunk` makes of `size` bytes."""
    full, rest = divmod(size, chunk_bytes)
    lengths = [(full, chunk_bytes), (1, rest)] if rest else [(full, chunk_bytes)]
    return sum(count * (1 + len(_varint(length)) + length) for count, length in lengths)
