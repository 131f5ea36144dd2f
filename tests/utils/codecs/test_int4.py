from __future__ import annotations

import numpy as np
import pytest

from utils.codecs.base import Moment, State
from utils.codecs.int4 import Int4
from utils.errors import PayloadError

SHAPES = ((5, 13),)  # 65 values: a whole block and a short one, and an odd number of levels
ZERO: State = {"residual": np.zeros(65, np.float32)}


def bf16(*values: float) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype("<u2").view("V2")


def test_bytes_of_a_case_by_hand() -> None:
    values = np.zeros(65, np.float32)
    values[:4] = [3.5, -3.5, 0.5, -1.0]  # scale 0.5: 7, -7, 1, -2
    values[64] = -14.0  # scale 2: -7
    arrays, state = Int4().encode(values, SHAPES, ZERO, Moment())
    assert arrays["scales"].tobytes() == bf16(0.5, 2.0).tobytes()
    assert arrays["levels"].tolist() == [0x97, 0xE1, *[0] * 30, 0x09]
    assert state["residual"].tolist() == [0.0] * 65
    assert Int4().decode(arrays, SHAPES).tolist() == values.tolist()


def test_scales_are_rounded_up_to_bfloat16() -> None:
    values = np.full(65, 7 * 1.001, np.float32)
    arrays, _ = Int4().encode(values, SHAPES, ZERO, Moment())
    assert arrays["scales"].tobytes() == bf16(1 + 2.0**-7, 1 + 2.0**-7).tobytes()


def test_the_residual_is_what_was_lost_to_the_bit() -> None:
    values = np.random.default_rng(0).normal(size=65).astype(np.float32)
    before = np.random.default_rng(1).normal(size=65).astype(np.float32)
    arrays, state = Int4().encode(values, SHAPES, {"residual": before}, Moment(3))
    lost = (values + before) - Int4().decode(arrays, SHAPES)
    assert state["residual"].tobytes() == lost.tobytes()
    assert np.abs(lost).max() > 0.01


def test_over_many_encodings_nothing_is_lost_but_the_last_residual() -> None:
    rng = np.random.default_rng(4)
    codec = Int4()
    state = codec.init(SHAPES)
    wanted, sent = np.zeros(65), np.zeros(65)
    for seed in range(200):
        values = rng.normal(size=65).astype(np.float32)
        arrays, state = codec.encode(values, SHAPES, state, Moment(seed))
        wanted += values
        sent += codec.decode(arrays, SHAPES)
    # 200 float32 sums of numbers below 8, each rounded by less than 2**-21.
    np.testing.assert_allclose(wanted - sent, state["residual"], rtol=0, atol=200 * 2.0**-21)
    assert np.abs(state["residual"]).max() < 1.2  # scales are about 0.4, and each residual at most one


def test_a_sum_with_the_residual_beyond_float32_is_saturated() -> None:
    most = np.finfo(np.float32).max
    full = np.full(65, most, np.float32)
    arrays, state = Int4().encode(full, SHAPES, {"residual": full}, Moment())
    assert np.isfinite(Int4().decode(arrays, SHAPES)).all()
    assert np.abs(state["residual"]).max() <= most / 7


def test_only_its_own_tensors_pass() -> None:
    codec = Int4()
    good = {"levels": ("U8", (33,)), "scales": ("BF16", (2,))}
    codec.check(good, SHAPES)
    for name, spec in [("levels", ("U8", (32,))), ("levels", ("I8", (33,))), ("scales", ("U16", (2,)))]:
        with pytest.raises(PayloadError, match=f"encoded tensor '{name}' must be"):
            codec.check({**good, name: spec}, SHAPES)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, -0.0, 1e38, 5e37])
def test_scales_that_are_never_sent_are_refused(scale: float) -> None:
    with pytest.raises(PayloadError, match="int4: a scale is negative, not finite, or too large"):
        Int4().decode({"levels": np.zeros(33, np.uint8), "scales": bf16(1.0, scale)}, SHAPES)


@pytest.mark.parametrize(("place", "byte"), [(0, 0x08), (31, 0x80), (32, 0x08)])
def test_level_8_below_zero_is_refused(place: int, byte: int) -> None:
    levels = np.zeros(33, np.uint8)
    levels[place] = byte
    with pytest.raises(PayloadError, match="level -8"):
        Int4().decode({"levels": levels, "scales": bf16(1.0, 1.0)}, SHAPES)


def test_bits_after_the_last_value_must_be_zero() -> None:
    levels = np.zeros(33, np.uint8)
    levels[32] = 0x10
    with pytest.raises(PayloadError, match="after the last value"):
        Int4().decode({"levels": levels, "scales": bf16(1.0, 1.0)}, SHAPES)
