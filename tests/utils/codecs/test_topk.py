from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from utils.codecs.base import Arrays, Moment, Spec
from utils.codecs.feedback import LIMIT
from utils.codecs.registry import make_codec
from utils.codecs.topk import TopK
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import DTYPES

AFTER = Moment(progress=1.0)
CODES = {dtype: code for code, dtype in DTYPES.items()}
finite = st.floats(-(2.0**127), 2.0**127, width=32)
fractions = st.sampled_from([0.001, 0.01, 0.25, 0.5, 1.0])


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def shapes_of(values: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    return ((len(values),),)


def specs(arrays: Arrays) -> dict[str, Spec]:
    return {name: (CODES[array.dtype], array.shape) for name, array in arrays.items()}


def e5m2(codes: NDArray[Any]) -> list[float]:
    values: list[float] = torch.from_numpy(codes).view(torch.float8_e5m2).float().tolist()
    return values


def round_trip(codec: TopK, values: Vector) -> Vector:
    shapes = shapes_of(values)
    arrays, _ = codec.encode(values, shapes, codec.init(shapes), AFTER)
    codec.check(specs(arrays), shapes)
    return codec.decode(arrays, shapes)


# --- what is sent --------------------------------------------------------------------------


def test_the_largest_magnitudes_are_sent_and_the_rest_is_kept() -> None:
    codec, shapes = TopK(0.5), ((2, 1), (2,))
    arrays, state = codec.encode(vector(3, -1, 0.5, -4), shapes, codec.init(shapes), AFTER)
    assert arrays["gaps"].tolist() == [0, 2]
    assert e5m2(arrays["values"]) == [3 * 2.0**12, -(2.0**14)]
    assert arrays["scale"].tolist() == [2.0**-12]
    assert specs(arrays) == {"gaps": ("U8", (2,)), "values": ("U8", (2,)), "scale": ("F32", (1,))}
    assert codec.decode(arrays, shapes).tolist() == [3, 0, 0, -4]
    assert {name: array.tolist() for name, array in state.items()} == {"residual": [0, -1, 0.5, 0]}


def test_what_was_kept_is_added_to_the_next_values() -> None:
    codec, shapes = TopK(0.25), ((4,),)
    _, state = codec.encode(vector(3, -2, 0.5, 1), shapes, codec.init(shapes), AFTER)
    arrays, state = codec.encode(vector(1, -2, 0.5, 1), shapes, state, AFTER)
    assert codec.decode(arrays, shapes).tolist() == [0, -4, 0, 0]
    assert state["residual"].tolist() == [1, 0, 1, 2]


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    assert round_trip(TopK(0.5), vector(1, 2, -1, 1, -1, 1)).tolist() == [1, 2, -1, 0, 0, 0]


def test_zeros_are_not_sent() -> None:
    codec, shapes = TopK(1.0), ((4,),)
    arrays, _ = codec.encode(vector(0, 5, 0, 0), shapes, codec.init(shapes), AFTER)
    assert arrays["gaps"].tolist() == [1]
    zeros, state = codec.encode(vector(0, 0, 0, 0), shapes, codec.init(shapes), AFTER)
    assert specs(zeros) == {"gaps": ("U8", (0,)), "values": ("U8", (0,)), "scale": ("F32", (1,))}
    codec.check(specs(zeros), shapes)
    assert codec.decode(zeros, shapes).tolist() == state["residual"].tolist() == [0, 0, 0, 0]


def test_an_empty_piece_is_an_empty_encoding() -> None:
    assert round_trip(TopK(0.01), vector()).shape == (0,)


def test_at_least_one_value_is_sent() -> None:
    assert round_trip(TopK(0.001), vector(1, 3, 2)).tolist() == [0, 3, 0]


def test_gaps_that_16_bits_do_not_hold_are_bridged_by_zeros() -> None:
    codec, shapes = TopK(1e-5), ((200_000,),)
    values = np.zeros(200_000, np.float32)
    values[[0, 65_536]] = 1, 2
    arrays, state = codec.encode(values, shapes, codec.init(shapes), AFTER)
    assert arrays["gaps"].tolist() == [0, 65_535]
    values[:] = 0
    values[[65_536, 131_073, 199_999]] = 0.5, -3, 4
    arrays, _ = codec.encode(values, shapes, state, Moment())
    assert arrays["gaps"].tolist() == [65_535, 65_535, 1, 65_535, 68_925 - 65_536]
    assert e5m2(arrays["values"]) == [0, 0, -3 * 2.0**12, 0, 2.0**14]
    codec.check(specs(arrays), shapes)
    assert np.flatnonzero(codec.decode(arrays, shapes)).tolist() == [131_073, 199_999]


def test_gaps_that_a_byte_does_not_hold_are_bridged_by_zeros() -> None:
    codec, shapes = TopK(1 / 128), ((600,),)
    values = np.zeros(600, np.float32)
    values[[255, 512, 599]] = 1, 2, 4
    arrays, _ = codec.encode(values, shapes, codec.init(shapes), AFTER)
    assert arrays["gaps"].tolist() == [255, 255, 0, 86]
    assert e5m2(arrays["values"]) == [2.0**12, 0, 2.0**13, 2.0**14]
    codec.check(specs(arrays), shapes)
    assert codec.decode(arrays, shapes).tolist() == values.tolist()


@pytest.mark.parametrize(("fraction", "size"), [(0.02, 2 * 20_000), (0.005, 3 * 5_000)])
def test_a_value_takes_two_bytes_or_three(fraction: float, size: int) -> None:
    values = np.random.default_rng(0).standard_normal(1_000_000, np.float32)
    shapes, codec = shapes_of(values), TopK(fraction)
    arrays, _ = codec.encode(values, shapes, codec.init(shapes), AFTER)
    assert size + 4 <= sum(array.nbytes for array in arrays.values()) < 1.01 * size


def test_values_are_rounded_to_the_nearest_of_three_bits() -> None:
    values = np.random.default_rng(0).standard_normal(500).astype(np.float16).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.float8_e5m2).float()
    assert round_trip(TopK(1.0), values).tolist() == expected.tolist()


@given(hnp.arrays(np.float32, st.integers(0, 80), elements=finite), fractions)
def test_no_value_that_stays_is_larger_than_one_that_goes(values: Vector, fraction: float) -> None:
    held = np.clip(values, -LIMIT, LIMIT)
    codec, shapes = TopK(fraction), shapes_of(values)
    before = values.tobytes()
    arrays, state = codec.encode(values, shapes, codec.init(shapes), AFTER)
    again, _ = codec.encode(values, shapes, codec.init(shapes), AFTER)
    codec.check(specs(arrays), shapes)
    decoded = codec.decode(arrays, shapes)
    assert values.tobytes() == before
    assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in again.items()}
    assert (decoded + state["residual"] == held).all()
    sent = np.zeros(len(values), np.bool_)
    sent[np.cumsum(arrays["gaps"].astype(int) + 1) - 1] = True
    assert np.abs(held[~sent]).max(initial=0) <= np.abs(held[sent]).min(initial=np.inf)
    largest = np.abs(held).max(initial=0)
    assert (
        np.abs(decoded - held)[sent]
        <= np.maximum(np.abs(held[sent]) * 2.0**-3, np.maximum(largest * 2.0**-30, 2.0**-143))
    ).all()


NOISE = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(NOISE, id="all differ"),
        pytest.param(np.round(NOISE * 2), id="many are equal"),
        pytest.param(np.where(np.arange(20_000) % 61, NOISE, 9), id="all that is looked at first is large"),
        pytest.param(np.where(np.arange(20_000) % 61, NOISE, 0), id="all that is looked at first is zero"),
        pytest.param(np.where(np.arange(20_000) < 300, NOISE, 0), id="most are zero"),
        pytest.param(np.arange(100, dtype=np.float32), id="few"),
    ],
)
def test_exactly_the_largest_are_sent_however_they_lie(values: Vector) -> None:
    number = -(-len(values) // 50)
    largest = np.argsort(-np.abs(values), kind="stable")[:number]
    decoded = round_trip(TopK(0.02), values)
    assert np.flatnonzero(decoded).tolist() == sorted(largest[values[largest] != 0])


@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 8), st.integers(1, 40))),
    fractions,
    st.sampled_from([0.0, 0.6]),
)
def test_nothing_is_lost_over_many_encodings(
    steps: NDArray[np.int16], fraction: float, warmup: float
) -> None:
    codec, shapes = TopK(fraction, warmup), shapes_of(steps[0])
    state, total = codec.init(shapes), np.zeros(steps.shape[1])
    for number, values in enumerate(steps):
        moment = Moment(progress=number / len(steps))
        arrays, state = codec.encode(values.astype(np.float32), shapes, state, moment)
        codec.check(specs(arrays), shapes)
        total += codec.decode(arrays, shapes)
    # Whole numbers below 2^24 are added exactly, so not even rounding may be lost.
    assert (total + state["residual"] == steps.sum(0, dtype=np.int64)).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_huge_values_are_held_below_infinity(momentum: float) -> None:
    codec, shapes = TopK(0.5, momentum=momentum), ((4,),)
    most = float(np.finfo(np.float32).max)
    state = codec.init(shapes)
    for _ in range(20):
        arrays, state = codec.encode(vector(most, -most, most, 1), shapes, state, AFTER)
        assert codec.decode(arrays, shapes).tolist() == [LIMIT, -LIMIT, 0, 0]
        assert state["residual"][2] == LIMIT


def test_the_smallest_values_survive_the_scale() -> None:
    least = 2.0**-142
    assert round_trip(TopK(1.0), vector(least, -3 * least)).tolist() == [least, -3 * least]


# --- Deep Gradient Compression -------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_momentum_is_corrected_as_in_the_paper(momentum: float, nesterov: bool) -> None:
    rng, size, sent = np.random.default_rng(0), 60, 6
    codec, shapes = TopK(sent / size, momentum=momentum, nesterov=nesterov), ((size,),)
    state, u, v = codec.init(shapes), np.zeros(size), np.zeros(size)
    for _ in range(30):
        gradient = rng.standard_normal(size, np.float32)
        arrays, state = codec.encode(gradient, shapes, state, AFTER)
        decoded = codec.decode(arrays, shapes)
        u = momentum * u + gradient
        v += momentum * u + gradient if nesterov else u
        mask = np.argsort(-np.abs(v))[:sent]
        assert np.flatnonzero(decoded).tolist() == sorted(mask)
        np.testing.assert_allclose(decoded[mask], v[mask], rtol=2.0**-3)
        v -= decoded
        np.testing.assert_allclose(state["residual"], v, atol=1e-4)
        if momentum:
            np.testing.assert_allclose(state["momentum"], u, atol=1e-4)
    assert set(state) == ({"residual", "momentum"} if momentum else {"residual"})


@pytest.mark.parametrize("nesterov", [False, True])
def test_all_that_is_sent_is_sgd_with_momentum(nesterov: bool) -> None:
    codec, shapes = TopK(1.0, momentum=0.5, nesterov=nesterov), ((2,),)
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.5, nesterov=nesterov)
    state, moved = codec.init(shapes), np.zeros(2, np.float32)
    for _ in range(3):
        arrays, state = codec.encode(vector(8, -4), shapes, state, AFTER)
        moved -= codec.decode(arrays, shapes) + state["residual"]
        state = {**state, "residual": vector(0, 0)}  # what rounding left is taken at once
        parameter.grad = torch.tensor([8.0, -4.0])
        optimizer.step()
    assert moved.tolist() == parameter.tolist()


@pytest.mark.parametrize(
    ("progress", "sent"), [(0.0, 1024), (0.25, 128), (0.375, 46), (0.5, 16), (0.75, 16), (1.0, 16)]
)
def test_the_share_falls_exponentially_from_a_quarter(progress: float, sent: int) -> None:
    codec, shapes = TopK(1 / 256, warmup=0.5), ((4096,),)
    values = np.arange(1, 4097, dtype=np.float32)
    arrays, _ = codec.encode(values, shapes, codec.init(shapes), Moment(progress=progress))
    assert len(arrays["values"]) == sent
    codec.check(specs(arrays), shapes)


def test_a_warmup_does_not_lower_a_large_fraction() -> None:
    codec, shapes = TopK(0.5, warmup=0.5), ((8,),)
    arrays, _ = codec.encode(np.ones(8, np.float32), shapes, codec.init(shapes), Moment())
    assert len(arrays["values"]) == 4


@pytest.mark.parametrize(
    ("codec", "spec"),
    [(TopK(0.01), "topk:0.01"), (TopK(0.01, 0.1), "topk:0.01:0.1"), (TopK(1e-5, momentum=0.9), "topk:1e-05")],
)
def test_the_spec_says_what_the_other_side_must_know(codec: TopK, spec: str) -> None:
    assert codec.spec == spec
    assert make_codec(spec, momentum=codec.momentum) == codec


# --- what is refused -----------------------------------------------------------------------

GOOD: dict[str, Spec] = {"gaps": ("U8", (10,)), "values": ("U8", (10,)), "scale": ("F32", (1,))}


@pytest.mark.parametrize(
    "change",
    [
        {"gaps": ("U16", (10,))},
        {"values": ("F16", (10,))},
        {"values": ("U8", (9,))},
        {"gaps": ("U8", (10, 1)), "values": ("U8", (10, 1))},
        {"gaps": ("U8", ()), "values": ("U8", ())},
        {"gaps": ("U8", (14,)), "values": ("U8", (14,))},
        {"scale": ("F32", (2,))},
        {"more": ("U8", (0,))},
    ],
)
def test_other_tensors_are_refused(change: dict[str, Spec]) -> None:
    TopK(0.01).check(GOOD, ((1000,),))
    with pytest.raises(PayloadError):
        TopK(0.01).check(GOOD | change, ((1000,),))


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_tensor_is_refused(name: str) -> None:
    with pytest.raises(PayloadError):
        TopK(0.01).check({other: spec for other, spec in GOOD.items() if other != name}, ((1000,),))


def test_bridges_count_on_top_of_the_values_sent() -> None:
    shapes = ((1 << 20,),)
    most = 10_486 + 4_096

    def sized(kept: int) -> dict[str, Spec]:
        return {"gaps": ("U8", (kept,)), "values": ("U8", (kept,)), "scale": ("F32", (1,))}

    TopK(0.01).check(sized(most), shapes)
    with pytest.raises(PayloadError, match="at most 14582"):
        TopK(0.01).check(sized(most + 1), shapes)


@pytest.mark.parametrize(
    ("gaps", "values", "scale", "message"),
    [
        ([2, 1], [60, 60], 1.0, "value 4 was sent of a piece that has 4"),
        ([255], [60], 1.0, "value 255 "),
        ([0], [0x7C], 1.0, "NaN or infinite"),
        ([0], [0x7D], 1.0, "NaN or infinite"),
        ([0], [60], 3.0, "power of 2"),
        ([0], [60], 0.0, "power of 2"),
        ([0], [60], -2.0, "power of 2"),
        ([0], [60], np.nan, "power of 2"),
        ([0], [60], np.inf, "power of 2"),
        ([0], [60], 2.0**101, "power of 2"),
        ([0], [60], 2.0**-127, "power of 2"),
    ],
)
def test_arrays_that_encode_can_not_have_made_are_refused(
    gaps: list[int], values: list[int], scale: float, message: str
) -> None:
    arrays = {"gaps": np.array(gaps, "u1"), "values": np.array(values, "u1"), "scale": vector(scale)}
    with pytest.raises(PayloadError, match=message):
        TopK(0.5).decode(arrays, ((4,),))


@given(st.data(), st.integers(0, 20))
def test_any_bytes_decode_to_finite_values_or_are_refused(data: st.DataObject, kept: int) -> None:
    def raw(size: int, dtype: str) -> NDArray[Any]:
        return np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype)

    scale = data.draw(st.one_of(st.just(vector(2.0**100)), st.builds(raw, st.just(4), st.just("<f4"))))
    arrays = {"gaps": raw(kept, "u1"), "values": raw(kept, "u1"), "scale": scale}
    try:
        decoded = TopK(0.5).decode(arrays, ((3_000,),))
    except PayloadError:
        return
    assert np.isfinite(decoded).all()
