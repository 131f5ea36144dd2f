from __future__ import annotations

import numpy as np
import pytest

from utils.codecs.base import Moment, Spec
from utils.codecs.int8 import Int8
from utils.errors import PayloadError

SHAPES = ((2, 100), (100,))  # 300 values: a whole block and a short one


def test_levels_and_scales_of_a_case_by_hand() -> None:
    values = np.zeros(300, np.float32)
    values[:4] = [254.0, -254.0, 4.0, -6.0]
    values[256:258] = [-63.5, 1.5]
    arrays, state = Int8().encode(values, SHAPES, {}, Moment())
    assert arrays["scales"].tolist() == [2.0, 0.5]
    assert arrays["levels"][:5].tolist() == [127, -127, 2, -3, 0]
    assert arrays["levels"][256:259].tolist() == [-127, 3, 0]
    assert state == {}


def test_a_value_between_two_levels_takes_each_as_often_as_it_is_near() -> None:
    values = np.full(256 * 400, 0.25, np.float32)
    values[::256] = 127.0
    arrays, _ = Int8().encode(values, ((values.size,),), {}, Moment(5))
    levels = arrays["levels"].reshape(400, 256)[:, 1:]
    assert set(np.unique(levels)) == {0, 1}
    # A mean of 102,000 draws of variance 3/16: 6 standard deviations are 0.0082.
    assert abs(levels.mean() - 0.25) < 0.0082


def test_only_its_own_tensors_pass() -> None:
    codec = Int8()
    good = {"levels": ("I8", (300,)), "scales": ("F32", (2,))}
    codec.check(good, SHAPES)
    wrong: list[dict[str, Spec]] = [
        {},
        {"levels": good["levels"]},
        {**good, "more": ("U8", (1,))},
        {**good, "levels": ("U8", (300,))},
        {**good, "levels": ("I8", (301,))},
        {**good, "levels": ("I8", (3, 100))},
        {**good, "scales": ("F32", (1,))},
        {**good, "scales": ("F64", (2,))},
    ]
    for tensors in wrong:
        with pytest.raises(PayloadError, match="encoded tensor"):
            codec.check(tensors, SHAPES)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -0.0, 1e38, 2.7e36])
def test_scales_that_are_never_sent_are_refused(scale: float) -> None:
    arrays = {"levels": np.ones(300, np.int8), "scales": np.array([1.0, scale], "<f4")}
    with pytest.raises(PayloadError, match="int8: a scale is negative, not finite, or too large"):
        Int8().decode(arrays, SHAPES)


def test_level_128_below_zero_is_refused() -> None:
    levels = np.ones(300, np.int8)
    levels[299] = -128
    with pytest.raises(PayloadError, match="level -128"):
        Int8().decode({"levels": levels, "scales": np.ones(2, "<f4")}, SHAPES)


def test_a_scale_of_zero_says_zeros() -> None:
    arrays = {"levels": np.ones(300, np.int8), "scales": np.array([0.0, 2.0], "<f4")}
    assert Int8().decode(arrays, SHAPES).tolist() == [0.0] * 256 + [2.0] * 44


def test_scales_that_lie_at_an_odd_address_are_read() -> None:
    data = np.concatenate([np.ones(1, np.uint8), np.array([1.0, 3.0], "<f4").view(np.uint8)])
    arrays = {"levels": np.ones(300, np.int8), "scales": data[1:].view("<f4")}
    assert Int8().decode(arrays, SHAPES).tolist() == [1.0] * 256 + [3.0] * 44
