from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.codecs.base import Arrays, Codec, Moment, State
from utils.codecs.blocks import TILE
from utils.codecs.int4 import Int4
from utils.codecs.int8 import Int8
from utils.vector import Vector

MOST = np.finfo(np.float32).max
CODECS = [(Int8(), 256, 127), (Int4(), 64, 7)]
each_codec = pytest.mark.parametrize(("codec", "block", "top"), CODECS, ids=["int8", "int4"])

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = hnp.arrays(np.float32, st.integers(0, 600), elements=finite, fill=st.just(np.float32(0)))


def encode(codec: Codec, values: Vector, seed: int = 0) -> tuple[Arrays, State]:
    shapes = ((len(values),),)
    return codec.encode(values, shapes, codec.init(shapes), Moment(seed))


def there_and_back(codec: Codec, values: Vector, seed: int = 0) -> Vector:
    return codec.decode(encode(codec, values, seed)[0], ((len(values),),))


def scales(arrays: Arrays, block: int, size: int) -> Vector:
    """The scale of each value."""
    found = arrays["scales"]
    if found.dtype.kind == "V":
        found = (found.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return np.repeat(found.astype(np.float32), block)[:size]


@each_codec
@given(values=vectors, seed=st.integers(0, 1 << 63))
@example(values=np.full(300, MOST, np.float32), seed=1)
@example(values=np.array([-MOST, MOST, 1, -0.0, 1e-45], np.float32), seed=2)
@example(values=np.array([1e-45, -3e-45, 1e-38, 0], np.float32), seed=3)
def test_each_value_comes_back_within_one_scale_of_its_block(
    codec: Codec, block: int, top: int, values: Vector, seed: int
) -> None:
    arrays, _ = encode(codec, values, seed)
    decoded = codec.decode(arrays, ((len(values),),))
    assert np.isfinite(decoded).all()
    scale = scales(arrays, block, len(values)).astype(np.float64)
    # Three roundings to float32: of the reciprocal, of the quotient and of the product.
    error = np.abs(values.astype(np.float64) - decoded)
    assert (error <= scale * (1 + top * 2.0**-22)).all()
    assert (scale > 0).all()


@each_codec
@given(values=vectors)
def test_the_scale_is_the_largest_magnitude_through_the_top_level(
    codec: Codec, block: int, top: int, values: Vector
) -> None:
    scale = scales(encode(codec, values)[0], block, len(values))
    for start in range(0, len(values), block):
        peak = float(np.abs(values[start : start + block]).max())
        if 1e-30 < peak < 1e38:
            slack = 2.0**-7 if codec.spec == "int4" else 2.0**-23
            assert peak / top * (1 - 2.0**-23) <= scale[start] <= peak / top * (1 + slack)


@each_codec
def test_rounding_is_unbiased(codec: Codec, block: int, top: int) -> None:
    """Each error lies in an interval of one scale, so Hoeffding bounds the mean over independent seeds."""
    values = np.random.default_rng(1).normal(size=700).astype(np.float32)
    seeds = 1000
    mean = sum(there_and_back(codec, values, seed).astype(np.float64) for seed in range(seeds)) / seeds
    scale = scales(encode(codec, values)[0], block, len(values))
    chance = 1e-9  # that any of the values is off by more than the bound
    bound = math.sqrt(math.log(2 * len(values) / chance) / (2 * seeds)) + 2.0**-16
    assert bound < 0.13  # always rounding one way would be off by up to 1, to the nearest by up to 0.5
    error = (mean - values) / scale
    assert np.abs(error).max() < bound
    # Of all values together, whose errors are independent too.
    assert abs(error.mean()) < math.sqrt(math.log(2 / chance) / (2 * seeds * len(values))) + 2.0**-16


@each_codec
def test_whole_multiples_of_the_scale_are_kept(codec: Codec, block: int, top: int) -> None:
    levels = np.resize(np.arange(-top, top + 1), 5 * block)
    levels[::block] = top
    values = (levels * 0.5).astype(np.float32)
    for seed in range(20):
        np.testing.assert_array_equal(there_and_back(codec, values, seed), values)


@each_codec
def test_zero_blocks_stay_zero_beside_others(codec: Codec, block: int, top: int) -> None:
    values = np.zeros(3 * block, np.float32)
    values[2 * block :] = 3.25
    values[block] = -0.0
    decoded = there_and_back(codec, values)
    assert (decoded[: 2 * block].view(np.uint32) == 0).all()  # no minus zero either
    assert np.abs(decoded[2 * block :] - 3.25).max() <= 3.25 / 64


@each_codec
@pytest.mark.parametrize("size", [1, 63, 65, TILE - 1, TILE, TILE + 1, 2 * TILE + 129])
def test_any_size_is_encoded_whole(codec: Codec, block: int, top: int, size: int) -> None:
    values = (np.arange(size) % (2 * top + 1) - top).astype(np.float32)
    values[::64] = top
    np.testing.assert_array_equal(there_and_back(codec, values), values)


@each_codec
def test_the_seed_says_the_bytes(codec: Codec, block: int, top: int) -> None:
    values = np.random.default_rng(2).normal(size=TILE + 5).astype(np.float32)
    first, again, other = (encode(codec, values, seed)[0] for seed in (7, 7, 8))
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in again.items()
    }
    assert first["scales"].tobytes() == other["scales"].tobytes()
    assert first["levels"].tobytes() != other["levels"].tobytes()


@each_codec
def test_arguments_are_left_as_they_were(codec: Codec, block: int, top: int) -> None:
    values = np.random.default_rng(3).normal(size=1000).astype(np.float32)
    state = {"residual": np.ones(1000, np.float32)} if codec.spec == "int4" else {}
    values.setflags(write=False)
    for vector in state.values():
        vector.setflags(write=False)
    arrays, _ = codec.encode(values, ((10, 100),), state, Moment())
    for array in arrays.values():
        array.setflags(write=False)  # as received bytes may be
    assert codec.decode(arrays, ((10, 100),)).flags.writeable
