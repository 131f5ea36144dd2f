from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from utils.codecs.base import Codec, Moment
from utils.codecs.half import Bf16, Fp16
from utils.errors import PayloadError
from utils.vector import Vector

vectors = hnp.arrays(
    np.float32, st.integers(0, 70), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def there_and_back(codec: Codec, values: Vector) -> Vector:
    shapes = ((len(values),),)
    arrays, state = codec.encode(values, shapes, codec.init(shapes), Moment())
    assert state == {}
    return codec.decode(arrays, shapes)


def bits(values: Vector) -> NDArray[np.uint32]:
    return values.view(np.uint32)


@given(vectors)
@example(np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45, -0.0], np.float32))
def test_bf16_is_what_torch_rounds_to_but_for_what_would_be_infinite(values: Vector) -> None:
    expected = torch.from_numpy(values).bfloat16().clamp(-3.3895313892515355e38, 3.3895313892515355e38)
    np.testing.assert_array_equal(bits(there_and_back(Bf16(), values)), bits(expected.float().numpy()))


@given(vectors)
@example(np.array([65504, 65519.99, 65520, 1e38, -1e38, 5.96e-8, 2.9e-8, -0.0], np.float32))
def test_fp16_is_what_torch_rounds_to_but_for_what_would_be_infinite(values: Vector) -> None:
    expected = torch.from_numpy(values).half().clamp(-65504, 65504)
    np.testing.assert_array_equal(bits(there_and_back(Fp16(), values)), bits(expected.float().numpy()))


@pytest.mark.parametrize("codec", [Bf16(), Fp16()])
def test_ties_go_to_the_even_neighbour(codec: Codec) -> None:
    ulp = np.float32(2.0**-7 if codec.spec == "bf16" else 2.0**-10)  # of values from 1 to 2
    values = 1 + ulp * np.array([0.5, 1.5, 0.501, 1.499], np.float32)
    expected = 1 + ulp * np.array([0, 2, 1, 1], np.float32)
    np.testing.assert_array_equal(there_and_back(codec, values), expected)


@pytest.mark.parametrize("codec", [Bf16(), Fp16()])
def test_vectors_that_take_several_tiles_are_encoded_whole(codec: Codec) -> None:
    values = np.arange(150_001, dtype=np.float32) % 256
    np.testing.assert_array_equal(there_and_back(codec, values), values)


@pytest.mark.parametrize(
    ("codec", "wrong"),
    [(Bf16(), word) for word in (0x7F80, 0xFF80, 0x7FC0, 0xFFFF)]
    + [(Fp16(), word) for word in (0x7C00, 0xFC00, 0x7E00, 0xFFFF)],
)
def test_what_is_not_finite_is_refused(codec: Codec, wrong: int) -> None:
    shapes = ((3,),)
    arrays, _ = codec.encode(np.ones(3, np.float32), shapes, {}, Moment())
    damaged = arrays["values"].view("<u2").copy()
    damaged[1] = wrong
    with pytest.raises(PayloadError, match=f"{codec.spec}: a value is NaN or infinite"):
        codec.decode({"values": damaged.view(arrays["values"].dtype)}, shapes)
    damaged[1] = wrong & 0x8000 | (0x7F7F if codec.spec == "bf16" else 0x7BFF)  # the largest
    decoded = codec.decode({"values": damaged.view(arrays["values"].dtype)}, shapes)
    assert abs(decoded[1]) == (np.float32(3.3895314e38) if codec.spec == "bf16" else 65504)
