from __future__ import annotations

import socket

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos import leader_pb2
from utils.errors import LimitError, PayloadError
from utils.wire.framing import beside_chunk, frame
from utils.wire.rpc import (
    MAX_SAID_BYTES,
    channel_options,
    is_loopback,
    own_host,
    parse_chunk,
    parse_down,
    parse_upload,
    server_options,
)

HEADER = leader_pb2.UpdateHeader(token=b"t" * 16, work_id="w", examples=7)


def chunk_of(message: bytes) -> bytes:
    parsed = parse_upload(message)
    return bytes(parsed) if isinstance(parsed, memoryview) else parsed.chunk


@given(st.binary(max_size=300))
def test_a_chunk_alone_needs_no_message_object(chunk: bytes) -> None:
    message = leader_pb2.GradientData(chunk=chunk).SerializeToString()
    parsed = parse_upload(message)
    assert isinstance(parsed, memoryview)
    assert parsed == chunk


@given(st.binary(max_size=300))
def test_a_header_comes_with_the_chunk_beside_it(chunk: bytes) -> None:
    sent = leader_pb2.GradientData(chunk=chunk, header=HEADER)
    assert parse_upload(sent.SerializeToString()) == sent


pieces = st.builds(leader_pb2.Piece, number=st.integers(0, 99), total_bytes=st.integers(0, 1 << 40))
uploads = st.builds(
    leader_pb2.GradientData,
    chunk=st.binary(max_size=300),
    header=st.none() | st.just(HEADER),
    piece=st.none() | pieces,
)
downloads = st.builds(
    leader_pb2.ModelChunk,
    chunk=st.binary(max_size=300),
    piece=st.none() | pieces,
    stepped=st.none() | st.builds(leader_pb2.Stepped, version=st.integers(0, 1 << 62)),
    redo=st.none() | st.builds(leader_pb2.Redo, attempt=st.integers(0, 9)),
)


@given(uploads)
def test_an_upload_message_with_any_fields_is_read_whole(sent: leader_pb2.GradientData) -> None:
    parsed = parse_upload(sent.SerializeToString())
    if isinstance(parsed, memoryview):
        assert leader_pb2.GradientData(chunk=bytes(parsed)) == sent
    else:
        assert parsed == sent
        assert sent.HasField("header") or sent.HasField("piece")


@given(downloads)
def test_a_download_message_with_any_fields_is_read_whole(sent: leader_pb2.ModelChunk) -> None:
    parsed = parse_down(sent.SerializeToString())
    if isinstance(parsed, memoryview):
        assert leader_pb2.ModelChunk(chunk=bytes(parsed)) == sent
    else:
        assert parsed == sent
        assert sent.HasField("piece") or sent.HasField("stepped") or sent.HasField("redo")


@pytest.mark.parametrize(
    ("message", "chunk"),
    [
        pytest.param(b"\x0a\x01x\x78\x05", b"x", id="a field of a later release behind"),
        pytest.param(b"\x78\x05\x0a\x01x", b"x", id="a field of a later release in front"),
        pytest.param(b"\x0a\x01x\x0a\x02yz", b"yz", id="the chunk twice: the last counts"),
        pytest.param(b"\x0a\x82\x00xy", b"xy", id="a length in more bytes than it needs"),
        pytest.param(b"\x8a\x00\x02xy", b"xy", id="a tag in more bytes than it needs"),
        pytest.param(b"\x0a\x00", b"", id="an empty chunk that is spelt out"),
        pytest.param(b"", b"", id="an empty message"),
    ],
)
def test_every_encoding_of_a_chunk_is_understood(message: bytes, chunk: bytes) -> None:
    assert leader_pb2.GradientData.FromString(message).chunk == chunk
    assert chunk_of(message) == chunk
    assert parse_chunk(message) == chunk


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_the_generated_parser_reads_them(message: bytes) -> None:
    try:
        expected = leader_pb2.GradientData.FromString(message)
    except DecodeError:
        with pytest.raises(PayloadError, match="no message of this contract"):
            parse_upload(message)
        return
    assert chunk_of(message) == expected.chunk


@given(
    st.lists(
        st.binary(max_size=60) | st.builds(lambda update: update.SerializeToString(), uploads), max_size=5
    )
)
def test_what_is_beside_a_chunk_is_never_more_than_what_is_counted(fields: list[bytes]) -> None:
    message = b"".join(fields)
    try:
        parsed = leader_pb2.GradientData.FromString(message)
    except DecodeError:
        return
    parsed.ClearField("chunk")
    assert len(parsed.SerializeToString()) <= beside_chunk(message)


def of_metrics(size: int) -> leader_pb2.UpdateHeader:
    """A header of about so many bytes, all of it metrics that say nothing."""
    return leader_pb2.UpdateHeader(metrics=[leader_pb2.Metric()] * (size // 2))


def test_a_message_with_a_chunk_may_have_so_much_beside_it_and_no_more() -> None:
    chunk = bytes(2 << 20)
    header = leader_pb2.GradientData(header=HEADER).SerializeToString()
    for text in (header + frame(chunk), frame(chunk) + header):
        assert parse_upload(text) == leader_pb2.GradientData(chunk=chunk, header=HEADER)
    for front in (b"", frame(chunk)):
        fits = leader_pb2.GradientData(header=of_metrics(MAX_SAID_BYTES - 20)).SerializeToString()
        parsed = parse_upload(front + fits)
        assert not isinstance(parsed, memoryview)
        assert len(parsed.header.metrics) == MAX_SAID_BYTES // 2 - 10
        more = leader_pb2.GradientData(header=of_metrics(MAX_SAID_BYTES)).SerializeToString()
        with pytest.raises(LimitError, match=r"655\d\d bytes in one message; at most 65536 are read"):
            parse_upload(front + more)


def test_metrics_that_are_dressed_up_as_a_chunk_are_counted() -> None:
    more = leader_pb2.GradientData(header=of_metrics(1 << 20)).SerializeToString()
    # A field of a later release, whose tag has two bytes: read as one of one byte, a chunk would be in it.
    within = frame(bytes(len(more)))[:4]
    dressed = b"\x8a\x01" + bytes((len(within),)) + within + more
    assert len(leader_pb2.GradientData.FromString(dressed).header.metrics) == 1 << 19
    assert beside_chunk(dressed) > 1 << 20
    many = b"\x0a\x01x" * 20 + frame(bytes(1 << 20))  # behind so many fields no chunk is looked for
    assert beside_chunk(many) > 1 << 20


def test_either_side_fixes_what_it_lets_in_of_a_stream() -> None:
    for options in (channel_options(window_bytes=70_000), server_options(window_bytes=70_000)):
        assert dict(options)["grpc.http2.lookahead_bytes"] == 70_000
        assert dict(options)["grpc.http2.bdp_probe"] == 0
        assert len(dict(options)) == len(options)


def test_own_host_is_an_address_of_this_machine_that_is_not_for_itself_alone() -> None:
    host = own_host()
    with socket.create_server((host, 0)):
        pass
    assert host == socket.gethostname() or not is_loopback(f"{host}:1")
