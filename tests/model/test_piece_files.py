from __future__ import annotations

import numpy as np
import pytest
import zstandard
from torch import nn

from model.layout import Layout
from model.piece_files import PieceFiles, is_plain
from utils.codecs import Moment, make_codec
from utils.codecs.files import File, decode_file, encode_file
from utils.errors import LimitError, PayloadError
from utils.vector import Vector
from utils.wire.payload import Payload, encode_header, parse_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 20)))
VECTOR = np.random.Generator(np.random.PCG64(0)).normal(size=LAYOUT.total).astype(np.float32)
PLAIN = PieceFiles(LAYOUT, 1, None)
CUT = PieceFiles(
    LAYOUT, 1000, None, cut_tensors=True
)  # a piece has the end of a tensor, others, the start of one


def received(file: File) -> Payload:
    return Payload(parse_header(file.header), file.body, file.crc32)


def piece_of(files: PieceFiles, number: int) -> Vector:
    return VECTOR[files.pieces[number].start : files.pieces[number].stop]


@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 30])
def test_pieces_cover_the_vector_and_buffers_are_the_last_one(piece_bytes: int) -> None:
    pieces = PieceFiles(LAYOUT, piece_bytes, None).pieces
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert (pieces[-1].start, pieces[-1].stop) == (LAYOUT.parameter_count, LAYOUT.total)


def test_without_buffers_there_is_no_piece_for_them() -> None:
    layout = Layout.of(nn.Linear(3, 2))
    assert [piece.stop for piece in PieceFiles(layout, 1, None).pieces] == [6, 8]


@pytest.mark.parametrize("number", range(len(PLAIN.pieces)))
def test_a_plain_piece_has_its_tensors_by_name(number: int) -> None:
    payload = received(PLAIN.plain(number, piece_of(PLAIN, number), {}))
    PLAIN.check(number, payload.manifest)
    entries = {entry.name: VECTOR[entry.start : entry.start + entry.size] for entry in LAYOUT.entries}
    for name, array in payload.arrays().items():
        assert array.ravel().tolist() == entries[name].tolist()
    assert PLAIN.decode(number, payload).tobytes() == piece_of(PLAIN, number).tobytes()
    assert is_plain(payload)
    assert payload.manifest.total_bytes <= PLAIN.max_bytes(number)


def test_a_plain_piece_has_its_parts_of_tensors_that_are_cut() -> None:
    named: dict[str, list[float]] = {}
    for piece in CUT.pieces:
        payload = received(CUT.plain(piece.number, piece_of(CUT, piece.number), {}))
        CUT.check(piece.number, payload.manifest)
        assert CUT.decode(piece.number, payload).tobytes() == piece_of(CUT, piece.number).tobytes()
        for name, array in payload.arrays().items():
            named.setdefault(name, []).extend(array.ravel())
    assert named == {entry.name: [*VECTOR[entry.start :][: entry.size]] for entry in LAYOUT.entries}


def test_a_part_of_a_tensor_is_not_taken_for_another_one_of_it() -> None:
    first, second = CUT.pieces[:2]
    payload = received(CUT.plain(first.number, piece_of(CUT, first.number), {}))
    with pytest.raises(PayloadError, match=r"piece 1 has '0\.weight' as F32"):
        CUT.check(second.number, payload.manifest)


@pytest.mark.parametrize("cut_tensors", [False, True])
@pytest.mark.parametrize("zstd", [False, True])
def test_an_encoded_piece_has_the_bytes_that_it_has_in_the_whole_file(zstd: bool, cut_tensors: bool) -> None:
    codec = make_codec("int8")
    files = PieceFiles(LAYOUT, 1000 if cut_tensors else 1, codec, cut_tensors=cut_tensors, zstd=zstd)
    split, pieces = LAYOUT.parameter_count, files.pieces[:-1]
    whole, _ = encode_file(codec, pieces, VECTOR[:split], VECTOR[split:], {}, Moment(5), {})
    expected = decode_file(codec, pieces, LAYOUT.total - split, received(whole))
    for piece in pieces:
        file, _ = files.encode(piece.number, piece_of(files, piece.number), {}, Moment(5), {})
        payload = received(file)
        files.check(piece.number, payload.manifest)
        assert not is_plain(payload)
        assert files.decode(piece.number, payload).tobytes() == expected[piece.start : piece.stop].tobytes()
    assert not files.encoded(len(pieces))


def test_what_a_codec_keeps_is_kept_for_each_piece_by_its_name() -> None:
    files = PieceFiles(LAYOUT, 1, make_codec("topk:0.1"))
    _, first = files.encode(0, piece_of(files, 0), {}, Moment(), {})
    _, third = files.encode(2, piece_of(files, 2), {}, Moment(), {})
    assert first
    assert all(name.startswith("0.") for name in first)
    both = {**first, **third}
    assert set(files.encode(0, piece_of(files, 0), both, Moment(), {})[1]) == set(first)


def test_a_learner_that_does_not_know_the_codec_may_send_float32() -> None:
    files = PieceFiles(LAYOUT, 1, make_codec("int8"))
    payload = received(files.plain(0, piece_of(files, 0), {}))
    files.check(0, payload.manifest)
    assert files.decode(0, payload).tobytes() == piece_of(files, 0).tobytes()


def plain_file(tensors: list[tuple[str, str, tuple[int, ...]]], **metadata: str) -> Payload:
    header = encode_header(tensors, metadata)
    manifest = parse_header(header)
    return Payload(manifest, np.zeros(manifest.data_bytes, np.uint8), 0)


ENTRY = LAYOUT.parameters[0]


@pytest.mark.parametrize(
    "payload",
    [
        plain_file([]),
        plain_file([("other", "F32", ENTRY.shape)]),
        plain_file([(ENTRY.name, "F16", ENTRY.shape)]),
        plain_file([(ENTRY.name, "F32", ENTRY.shape[::-1])]),
        plain_file([(ENTRY.name, "F32", ENTRY.shape), ("more", "F32", (1,))]),
        plain_file([(ENTRY.name, "F32", ENTRY.shape)], codec="int8"),
        plain_file([("zstd", "U8", (9,))], codec="none", compression="zstd"),
    ],
)
def test_anything_else_is_refused_before_memory_is_taken(payload: Payload) -> None:
    files = (
        PLAIN
        if payload.manifest.metadata.get("codec") != "int8"
        else PieceFiles(LAYOUT, 1, make_codec("int8"))
    )
    with pytest.raises(PayloadError):
        files.check(0, payload.manifest)


def test_a_piece_is_not_taken_for_its_neighbour() -> None:
    with pytest.raises(PayloadError, match=r"piece 0 has '0\.bias' as F32\[30\], expected are the 1 float32"):
        PLAIN.check(0, received(PLAIN.plain(1, piece_of(PLAIN, 1), {})).manifest)


def test_a_compressed_piece_may_not_inflate_to_more_than_a_piece() -> None:
    codec = make_codec("int8")
    small = PieceFiles(Layout.of(nn.Linear(8, 8)), 1, codec, zstd=True)
    large = PieceFiles(Layout.of(nn.Linear(400, 400)), 1, codec, zstd=True)
    bomb, _ = large.encode(0, np.zeros(160_000, np.float32), {}, Moment(), {})
    assert bomb.total_bytes < small.max_bytes(0)
    small.check(0, parse_header(bomb.header))
    with pytest.raises(LimitError, match="inflates to"):
        small.decode(0, received(bomb))


@pytest.mark.parametrize(("codec", "number"), [(None, 0), ("int8", len(PLAIN.pieces) - 1)])
def test_a_piece_that_goes_through_no_codec_may_not_claim_one(codec: str | None, number: int) -> None:
    files = PieceFiles(LAYOUT, 1, make_codec(codec) if codec else None)
    file = PLAIN.plain(number, piece_of(PLAIN, number), {})
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in parse_header(file.header).tensors]
    with pytest.raises(
        PayloadError, match=f"piece {number} is encoded with 'int8'; here it is taken in float32"
    ):
        files.check(number, plain_file(tensors, codec="int8").manifest)


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_a_compressed_piece_may_not_hold_a_compressed_one(codec: str) -> None:
    files = PieceFiles(LAYOUT, 1, make_codec("int8"))
    told = {"codec": codec, "compression": "zstd"}
    inner = File.of({"zstd": np.zeros(10, np.uint8)}, told)
    frame = zstandard.ZstdCompressor().compress(inner.header + inner.body.tobytes())
    payload = received(File.of({"zstd": np.frombuffer(frame, np.uint8)}, told))
    files.check(0, payload.manifest)
    with pytest.raises(PayloadError, match="'zstd'"):
        files.decode(0, payload)
