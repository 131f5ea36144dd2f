from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protos import leader_pb2
from utils.wire.framing import frame, frames, rechunk, unframe

#: Sizes on both sides of each length that takes another byte to write.
EDGES = (0, 1, 127, 128, 16_383, 16_384, (1 << 21) - 1, 1 << 21)


def serialised(chunk: bytes) -> bytes:
    return leader_pb2.ModelChunk(chunk=chunk).SerializeToString()


def chunks(messages: list[bytes]) -> list[bytes]:
    return [leader_pb2.ModelChunk.FromString(message).chunk for message in messages]


def varint(value: int, *, width: int) -> bytes:
    """`value` in `width` bytes, padded with continuation bytes where fewer would do."""
    low = [value >> 7 * i & 0x7F | 0x80 for i in range(width - 1)]
    return bytes([*low, value >> 7 * (width - 1)])


@pytest.mark.parametrize("size", EDGES)
def test_a_frame_is_what_protobuf_writes(size: int) -> None:
    chunk = bytes(i % 251 for i in range(size))
    assert frame(chunk) == serialised(chunk)
    assert bytes(unframe(frame(chunk)) or b"") == chunk


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_parts_are_framed_as_one_chunk(parts: list[bytes]) -> None:
    assert frame(*(memoryview(part) for part in parts)) == serialised(b"".join(parts))


def test_a_chunk_is_read_where_it_lies() -> None:
    message = serialised(b"x" * 1000)
    view = unframe(message)
    assert view is not None
    assert view.obj is message


def foreign_messages() -> st.SearchStrategy[bytes]:
    """Valid and broken encodings around a chunk: split, padded, with other fields, cut, at random."""
    plain = st.binary(max_size=300).map(serialised)
    padded = st.builds(
        lambda chunk, width: b"\x0a" + varint(len(chunk), width=width) + chunk,
        st.binary(max_size=100),
        st.integers(1, 11),
    )
    other = st.builds(
        lambda number, value: varint(number << 3, width=2) + varint(value, width=2),
        st.integers(1, 9),
        st.integers(0, 300),
    )
    header = st.builds(
        lambda token: leader_pb2.GradientData(
            header=leader_pb2.UpdateHeader(token=token)
        ).SerializeToString(),
        st.binary(max_size=20),
    )
    piece = plain | padded | other | header | st.binary(max_size=12)
    joined = st.lists(piece, max_size=3).map(b"".join)
    return joined | st.builds(lambda message, end: message[:end], joined, st.integers(0, 40))


@given(foreign_messages())
@example(b"\x0a\x81\x00x")  # one byte, its length written in two
@example(b"\x0a\x00")  # an empty chunk that is spelt out
@example(b"\x0a\x01x\x0a\x01y")  # the last one counts
@example(b"\x0a\x05x")  # cut short
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_only_messages_as_protobuf_writes_them_are_read_by_hand(message: bytes) -> None:
    chunk = unframe(message)
    if chunk is not None:
        assert message == serialised(bytes(chunk))
        return
    try:
        parsed = leader_pb2.ModelChunk.FromString(message)
    except Exception:
        return
    assert message != serialised(parsed.chunk)


def body(size: int) -> bytes:
    return bytes(i * 7 % 256 for i in range(size))


@given(header=st.integers(0, 300), size=st.integers(0, 1000), chunk_bytes=st.integers(1, 256))
def test_frames_carry_header_and_body_in_chunks_of_bounded_size(
    header: int, size: int, chunk_bytes: int
) -> None:
    messages = list(frames(b"h" * header, body(size), chunk_bytes))
    assert b"".join(chunks(messages)) == b"h" * header + body(size)
    assert max(map(len, chunks(messages))) <= chunk_bytes
    assert messages == [serialised(chunk) for chunk in chunks(messages)]


@given(
    header=st.integers(0, 4).map(lambda n: 64 * n),
    values=st.integers(0, 300),
    chunk_bytes=st.integers(1, 6).map(lambda n: 64 * n),
)
def test_no_element_is_cut_where_header_and_chunks_are_multiples_of_64(
    header: int, values: int, chunk_bytes: int
) -> None:
    sizes = [len(chunk) for chunk in chunks(list(frames(b"h" * header, body(8 * values), chunk_bytes)))]
    assert [size % 8 for size in sizes] == [0] * len(sizes)


@given(pieces=st.lists(st.binary(max_size=100), max_size=8), chunk_bytes=st.integers(1, 64))
def test_rechunked_pieces_are_full_chunks_and_a_rest(pieces: list[bytes], chunk_bytes: int) -> None:
    cut = chunks(list(rechunk(pieces, chunk_bytes)))
    assert b"".join(cut) == b"".join(pieces)
    assert [len(chunk) for chunk in cut[:-1]] == [chunk_bytes] * (len(cut) - 1)
    assert all(0 < len(chunk) <= chunk_bytes for chunk in cut)
