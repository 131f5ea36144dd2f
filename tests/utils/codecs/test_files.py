from __future__ import annotations

import json
import math
import zlib
from itertools import permutations

import numpy as np
import pytest
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st

from utils.codecs import Codec, Moment, make_codec
from utils.codecs.base import State
from utils.codecs.files import File, check_file, decode_file, encode_file
from utils.codecs.pieces import cut
from utils.errors import LimitError, PayloadError
from utils.vector import Vector
from utils.wire.payload import DTYPES, Payload, PayloadReader, encode_header

SHAPES = ((30, 20), (20,), (31, 9), (), (3,), (300,))
PIECES = cut(SHAPES, 4 * 300)  # three
SIZE = sum(math.prod(shape) for shape in SHAPES)
NOTHING = np.empty(0, np.float32)
SPECS = ["bf16", "fp16", "int8", "int4", "topk:0.1", "powersgd:2"]
each_codec = pytest.mark.parametrize("codec", [make_codec(spec) for spec in SPECS], ids=SPECS)


def vector(seed: int = 0, size: int = SIZE) -> Vector:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def payload(file: File) -> Payload:
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 14)
    reader.feed(file.header)
    reader.feed(file.body.data)
    return reader.finish(file.crc32)


def raw(file: File) -> bytes:
    return file.header + file.body.tobytes()


def tensors(file: File) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    received = payload(file)
    return {
        tensor.name: (tensor.dtype, tensor.shape, received.array(tensor).tobytes())
        for tensor in received.manifest.tensors
    }


def test_the_pieces_are_those_that_these_tests_are_about() -> None:
    assert [piece.shapes for piece in PIECES] == [SHAPES[:1], SHAPES[1:5], SHAPES[5:]]


@each_codec
def test_a_file_says_its_codec_and_holds_pieces_by_number_then_the_buffers(codec: Codec) -> None:
    buffers = vector(9, 11)
    file, _ = encode_file(codec, PIECES, vector(), buffers, {}, Moment(), {"exchange": "delta"})
    assert file.metadata == {"exchange": "delta", "codec": codec.spec}
    names = [tensor.name for tensor in payload(file).manifest.tensors]
    assert [name.split(".")[0] for name in names] == sorted(name.split(".")[0] for name in names)
    assert {name.split(".")[0] for name in names} == {"0", "1", "2", "buffers"}
    assert file.total_bytes == len(raw(file))
    assert file.crc32 == zlib.crc32(raw(file))
    assert safetensors.torch.load(raw(file))["buffers"].tolist() == buffers.tolist()


@each_codec
def test_what_is_decoded_is_what_the_codec_makes_of_each_piece(codec: Codec) -> None:
    values, buffers = vector(), vector(9, 11)
    file, _ = encode_file(codec, PIECES, values, buffers, {}, Moment(3), {})
    check_file(codec, PIECES, 11, payload(file).manifest)
    decoded = decode_file(codec, PIECES, 11, payload(file))
    assert decoded.shape == (SIZE + 11,)
    np.testing.assert_array_equal(decoded[SIZE:], buffers)
    if codec.spec in ("bf16", "fp16", "int8", "int4"):
        tolerance = {"bf16": 2.0**-7, "fp16": 2.0**-10, "int8": 4 / 127, "int4": 4 / 7}[codec.spec]
        np.testing.assert_allclose(decoded[:SIZE], values, rtol=0, atol=tolerance)
    for piece in PIECES:
        alone, _ = encode_file(
            codec, [piece], values[piece.start : piece.stop], NOTHING, {}, Moment(3), {"x": "y"}
        )
        part = decode_file(codec, [piece], 11, payload(alone))
        assert part.tobytes() == decoded[piece.start : piece.stop].tobytes()


@each_codec
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_pieces_one_by_one_in_any_order_give_the_bytes_and_states_of_all_at_once(
    codec: Codec, order: tuple[int, ...]
) -> None:
    whole_state: State = {}
    state: State = {}
    for step in range(2):
        values = vector(step)
        whole, whole_state = encode_file(codec, PIECES, values, NOTHING, whole_state, Moment(step), {})
        found: dict[str, object] = {}
        for number in order:
            piece = PIECES[number]
            part = values[piece.start : piece.stop]
            file, state = encode_file(codec, [piece], part, NOTHING, state, Moment(step), {})
            found |= tensors(file)
        assert found == tensors(whole)
        assert {n: v.tobytes() for n, v in state.items()} == {n: v.tobytes() for n, v in whole_state.items()}


def test_each_piece_is_rounded_with_a_seed_of_its_own() -> None:
    pieces = cut([(512,), (512,)], 4)
    half = vector(1, 512)
    file, _ = encode_file(make_codec("int8"), pieces, np.tile(half, 2), NOTHING, {}, Moment(), {})
    arrays = payload(file).arrays()
    assert arrays["0.scales"].tobytes() == arrays["1.scales"].tobytes()
    assert arrays["0.levels"].tobytes() != arrays["1.levels"].tobytes()


def test_states_are_kept_by_piece_and_those_of_other_pieces_are_handed_on() -> None:
    codec = make_codec("int4")
    other = np.ones(3, np.float32)
    given_state: State = {"1.residual": np.full(303, 3.5, np.float32), "11.residual": other}
    piece = PIECES[1]
    file, state = encode_file(codec, [piece], np.zeros(303, np.float32), NOTHING, given_state, Moment(), {})
    assert state.keys() == {"1.residual", "11.residual"}
    assert state["11.residual"] is other
    assert decode_file(codec, [piece], 0, payload(file)).tolist() == [3.5] * 303  # 7 steps of 0.5
    assert not state["1.residual"].any()
    assert (given_state["1.residual"] == 3.5).all()


def test_a_small_file_is_these_bytes() -> None:
    pieces = cut([(2,)], 4)
    file, _ = encode_file(
        make_codec("bf16"),
        pieces,
        np.array([1.0, -2.0], np.float32),
        np.ones(1, np.float32),
        {},
        Moment(),
        {},
    )
    header = json.loads(file.header[8:])
    assert header == {
        "__metadata__": {"codec": "bf16"},
        "0.values": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "buffers": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    assert file.body.tobytes() == bytes.fromhex("803f 00c0 0000803f")


# --- refusals --------------------------------------------------------------------------------

Specs = dict[str, tuple[str, tuple[int, ...]]]
INT8 = make_codec("int8")
GOOD: Specs = {
    "0.levels": ("I8", (600,)),
    "0.scales": ("F32", (3,)),
    "1.levels": ("I8", (303,)),
    "1.scales": ("F32", (2,)),
    "2.levels": ("I8", (300,)),
    "2.scales": ("F32", (2,)),
    "buffers": ("F32", (11,)),
}


def claimed(specs: Specs, metadata: dict[str, str]) -> Payload:
    """A payload of zeros with these tensors."""
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 14)
    reader.feed(encode_header([(name, *spec) for name, spec in specs.items()], metadata))
    reader.feed(bytes(sum(DTYPES[d].itemsize * math.prod(shape) for d, shape in specs.values())))
    return reader.finish()


def without(name: str) -> Specs:
    return {other: spec for other, spec in GOOD.items() if other != name}


def test_the_order_of_tensors_and_the_presence_of_buffers_are_free() -> None:
    for specs in (GOOD, dict(reversed(GOOD.items())), without("buffers")):
        found = decode_file(INT8, PIECES, 11, claimed(specs, {"codec": "int8", "more": "x"}))
        assert found.tolist() == [0.0] * (SIZE + 11 * ("buffers" in specs))


@pytest.mark.parametrize(
    ("specs", "buffers", "message"),
    [
        ({}, 11, "piece 0: encoded tensors must be levels, scales"),
        (without("1.scales"), 11, "piece 1: encoded tensors must be levels, scales"),
        ({**GOOD, "2.more": ("U8", (1,))}, 11, "piece 2: encoded tensors must be levels, scales"),
        ({**GOOD, "2.": ("U8", (1,))}, 11, "piece 2: encoded tensors must be levels, scales"),
        ({**GOOD, "1.levels": ("I8", (88,))}, 11, "piece 1: .* must be I8\\[303\\]; got I8\\[88\\]"),
        ({**GOOD, "3.levels": ("I8", (1,))}, 11, "'3.levels' I8\\[1\\] does not belong into this file"),
        ({**GOOD, "00.levels": ("I8", (1,))}, 11, "'00.levels' .* does not belong"),
        ({**GOOD, "-0.levels": ("I8", (1,))}, 11, "'-0.levels' .* does not belong"),
        ({**GOOD, "": ("I8", (1,))}, 11, "'' .* does not belong"),
        ({**GOOD, "x" * 200: ("I8", (1,))}, 11, f"'{'x' * 64}' .* does not belong"),
        (GOOD, 0, "'buffers' .* does not belong"),
        (GOOD, 12, "'buffers' .* with 12 float32 buffers"),
        ({**GOOD, "buffers": ("F64", (11,))}, 11, "'buffers' F64\\[11\\] does not belong"),
        ({**without("buffers"), "buffers": ("F32", (11, 1))}, 11, "'buffers' .* does not belong"),
        ({**GOOD, "buffers.x": ("F32", (11,))}, 11, "'buffers.x' .* does not belong"),
    ],
)
def test_files_of_other_tensors_are_refused(specs: Specs, buffers: int, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        check_file(INT8, PIECES, buffers, claimed(specs, {"codec": "int8"}).manifest)
    with pytest.raises(PayloadError, match=message):
        decode_file(INT8, PIECES, buffers, claimed(specs, {"codec": "int8"}))


@pytest.mark.parametrize("metadata", [{}, {"codec": ""}, {"codec": "int4"}, {"codec": "x" * 1000}])
def test_files_of_another_codec_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(PayloadError, match=r"file is encoded with '.*', expected was 'int8'") as caught:
        check_file(INT8, PIECES, 11, claimed(GOOD, metadata).manifest)
    assert len(str(caught.value)) < 200


def test_values_that_are_never_sent_are_refused_with_the_number_of_their_piece() -> None:
    received = claimed(GOOD, {"codec": "int8"})
    received.arrays()["2.levels"][5:6] = np.int8(-128)
    with pytest.raises(PayloadError, match="piece 2: int8: level -128"):
        decode_file(INT8, PIECES, 11, received)


@each_codec
@given(data=st.data())
def test_damaged_bytes_are_refused_or_decoded_to_the_right_size(codec: Codec, data: st.DataObject) -> None:
    file, _ = encode_file(codec, PIECES, vector(), vector(9, 11), {}, Moment(), {})
    bytes_ = bytearray(raw(file))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(bytes_) - 1))
        bytes_[place] = data.draw(st.integers(0, 255))
    reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 14)
    try:
        reader.feed(bytes_)
        decoded = decode_file(codec, PIECES, 11, reader.finish())
    except (PayloadError, LimitError):
        return
    assert decoded.shape in ((SIZE,), (SIZE + 11,))
