from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State
from utils.codecs.powersgd import PowerSgd
from utils.codecs.registry import make_codec
from utils.errors import PayloadError
from utils.vector import Vector
from utils.wire.payload import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}
MIXED: Shapes = ((16, 3, 3, 3), (16,), (2, 2), (), (10, 16), (10,), (0, 4), (5, 1, 1))
some_shapes = st.lists(
    st.lists(st.integers(0, 9), max_size=4).map(tuple).filter(lambda shape: math.prod(shape) <= 1000),
    max_size=5,
).map(tuple)


def specs(arrays: Arrays) -> dict[str, Spec]:
    return {name: (CODES[array.dtype], array.shape) for name, array in arrays.items()}


def noise(shapes: Shapes, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(sum(map(math.prod, shapes)), np.float32)


def encode(
    codec: PowerSgd, values: Vector, shapes: Shapes, state: State | None = None
) -> tuple[Arrays, State]:
    return codec.encode(values, shapes, codec.init(shapes) if state is None else state, Moment())


def relative(error: NDArray[Any], values: NDArray[Any]) -> float:
    return float(np.linalg.norm(error) / np.linalg.norm(values))


# --- what arrives --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (8, 4, 3, 3)])
@pytest.mark.parametrize(("rank", "true_rank"), [(1, 1), (2, 2), (4, 3), (3, 1)])
def test_a_matrix_of_the_rank_arrives_whole(shape: tuple[int, ...], rank: int, true_rank: int) -> None:
    rows, columns = shape[0], math.prod(shape[1:])
    rng = np.random.default_rng(1)
    product = rng.standard_normal((rows, true_rank)) @ rng.standard_normal((true_rank, columns))
    values = (1e-6 * product).astype(np.float32).ravel()
    arrays, state = encode(PowerSgd(rank), values, (shape,))
    assert specs(arrays)["p"] == ("F16", (rows * rank,))
    assert specs(arrays)["q"] == ("F16", (columns * rank,))
    decoded = PowerSgd(rank).decode(arrays, (shape,))
    assert relative(decoded - values, values) < 2.0**-10
    assert relative(state["residual"] - (values - decoded), values) < 1e-6


def test_a_single_entry_arrives_exactly() -> None:
    values = np.zeros((5, 6), np.float32)
    values[3, 1] = -3
    arrays, state = encode(PowerSgd(2), values.ravel(), ((5, 6),))
    assert PowerSgd(2).decode(arrays, ((5, 6),)).tolist() == values.ravel().tolist()
    assert not state["residual"].any()


def test_small_tensors_and_vectors_go_as_they_are() -> None:
    codec, values = PowerSgd(2), noise(MIXED)
    arrays, state = encode(codec, values, MIXED)
    assert specs(arrays) == {
        "p": ("F16", (2 * (16 + 10),)),
        "q": ("F16", (2 * (27 + 16),)),
        "scale": ("F32", (1,)),
        "plain": ("F32", (16 + 4 + 1 + 10 + 5,)),
    }
    codec.check(specs(arrays), MIXED)
    decoded = codec.decode(arrays, MIXED)
    plain = np.r_[432:453, 613:628]
    assert decoded[plain].tolist() == values[plain].tolist() == arrays["plain"].tolist()
    assert not state["residual"][plain].any()
    assert state["residual"][:432].any()


def test_a_fixed_matrix_is_approximated_as_well_as_the_rank_allows() -> None:
    shape = (40, 50)
    values = noise((shape,))
    singular = np.linalg.svd(values.reshape(shape), compute_uv=False)
    best = math.sqrt((singular[3:] ** 2).sum() / (singular**2).sum())
    codec = PowerSgd(3)
    state, errors = codec.init((shape,)), []
    for _ in range(60):
        state = {**state, "residual": np.zeros_like(values)}
        arrays, state = encode(codec, values, (shape,), state)
        errors.append(relative(codec.decode(arrays, (shape,)) - values, values))
    assert errors[0] > 1.03 * best
    assert best < errors[-1] < 1.002 * best


def test_products_are_added_one_by_one_in_float32() -> None:
    rows, columns, rank = 300, 200, 3  # more than one block
    rng = np.random.default_rng(2)
    p = rng.uniform(-1, 1, (rows, rank)).astype(np.float16)
    q = rng.uniform(-9, 9, (columns, rank)).astype(np.float16)
    scale, plain = np.array([0.5], np.float32), np.empty(0, np.float32)
    arrays: Arrays = {"p": p.ravel(), "q": q.ravel(), "scale": scale, "plain": plain}
    decoded = PowerSgd(rank).decode(arrays, ((rows, columns),))
    left, right = p.astype(np.float32), q.astype(np.float32) * np.float32(0.5)
    terms = [left[:, i, None] * right[None, :, i] for i in range(rank)]
    assert decoded.tobytes() == ((terms[0] + terms[1]) + terms[2]).tobytes()


def test_zeros_are_zeros_and_no_dead_end() -> None:
    codec, shapes, zeros = PowerSgd(2), ((6, 8), (3,)), np.zeros(51, np.float32)
    arrays, state = encode(codec, zeros, shapes)
    assert not codec.decode(arrays, shapes).any()
    assert not state["residual"].any()
    assert state["q"].tobytes() == codec.init(shapes)["q"].tobytes()
    values = np.concatenate((np.outer(np.arange(6), np.arange(8)).ravel(), [1, 2, 3])).astype(np.float32)
    arrays, _ = encode(codec, values, shapes, state)
    assert relative(codec.decode(arrays, shapes) - values, values) < 2.0**-10


@pytest.mark.parametrize("size", [float(np.finfo(np.float32).max), 1e-44])
def test_extreme_values_give_finite_ones(size: float) -> None:
    codec, shapes = PowerSgd(2), ((6, 8), (3,))
    values, state = np.sign(noise(shapes)) * np.float32(size), codec.init(shapes)
    for _ in range(5):
        arrays, state = encode(codec, values, shapes, state)
        assert np.isfinite(codec.decode(arrays, shapes)).all()
    assert all(np.isfinite(array).all() for array in state.values())


@given(some_shapes, st.integers(1, 5), st.integers(0, 99))
def test_any_shapes_pass_the_check_and_leave_the_arguments_alone(
    shapes: Shapes, rank: int, seed: int
) -> None:
    codec, values = PowerSgd(rank), noise(shapes, seed)
    state = codec.init(shapes)
    before = [array.tobytes() for array in (values, *state.values())]
    arrays, after = encode(codec, values, shapes, state)
    assert [array.tobytes() for array in (values, *state.values())] == before
    codec.check(specs(arrays), shapes)
    decoded = codec.decode(arrays, shapes)
    assert decoded.dtype == np.float32
    assert decoded.shape == values.shape
    assert {name: array.shape for name, array in after.items()} == {n: a.shape for n, a in state.items()}
    np.testing.assert_allclose(decoded + after["residual"], values, atol=1e-6)
    again, _ = encode(codec, values, shapes, state)
    assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in again.items()}


# --- error feedback ------------------------------------------------------------------------


def test_nothing_is_lost_over_many_encodings() -> None:
    codec = PowerSgd(1)
    state, total, given = codec.init(MIXED), np.zeros(noise(MIXED).shape), np.zeros(noise(MIXED).shape)
    for step in range(20):
        values = noise(MIXED, step)
        arrays, state = encode(codec, values, MIXED, state)
        total += codec.decode(arrays, MIXED)
        given += values
    assert relative(total + state["residual"] - given, given) < 1e-5
    assert relative(total - given, given) > 0.1


def test_error_feedback_finds_the_minimum_where_products_alone_do_not() -> None:
    """Two learners whose gradients differ by a large rank-1 matrix, which hides what they have in common."""
    shapes = ((12, 10),)
    goal, apart = noise(shapes, 1), np.full(120, 5, np.float32)
    codec, distances = PowerSgd(1), {}
    for feedback in (True, False):
        x, states = np.zeros(120, np.float32), [codec.init(shapes)] * 2
        for _ in range(500):
            mean = np.zeros(120, np.float32)
            for learner, sign in enumerate((-1, 1)):
                state = states[learner] if feedback else {**states[learner], "residual": np.zeros_like(x)}
                arrays, states[learner] = encode(codec, x - goal + sign * apart, shapes, state)
                mean += codec.decode(arrays, shapes) / 2
            x -= np.float32(0.01) * mean
        distances[feedback] = relative(x - goal, goal)
    assert distances[True] < 0.05
    assert distances[False] > 0.8


def test_the_first_q_is_the_same_at_every_start_and_differs_between_tensors() -> None:
    shapes = ((9, 8), (9, 8))
    first = PowerSgd(2).init(shapes)["q"]
    assert first.tobytes() == PowerSgd(2).init(shapes)["q"].tobytes()
    assert first.shape == (32,)
    assert not (first[:16] == first[16:]).any()


def test_the_spec_says_the_rank() -> None:
    assert PowerSgd(4).spec == "powersgd:4"
    assert make_codec("powersgd:4") == PowerSgd(4)


# --- what is refused -----------------------------------------------------------------------

SHAPES: Shapes = ((6, 8), (3,))
GOOD: dict[str, Spec] = {
    "p": ("F16", (12,)),
    "q": ("F16", (16,)),
    "scale": ("F32", (1,)),
    "plain": ("F32", (3,)),
}


@pytest.mark.parametrize(
    "change",
    [
        {"p": ("F32", (12,))},
        {"p": ("F16", (6, 2))},
        {"q": ("F16", (15,))},
        {"q": ("BF16", (16,))},
        {"scale": ("F32", ())},
        {"plain": ("F32", (4,))},
        {"more": ("F32", (0,))},
    ],
)
def test_other_tensors_are_refused(change: dict[str, Spec]) -> None:
    PowerSgd(2).check(GOOD, SHAPES)
    with pytest.raises(PayloadError):
        PowerSgd(2).check(GOOD | change, SHAPES)


@pytest.mark.parametrize("name", list(GOOD))
def test_a_missing_tensor_is_refused(name: str) -> None:
    with pytest.raises(PayloadError):
        PowerSgd(2).check({other: spec for other, spec in GOOD.items() if other != name}, SHAPES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("p", 1.001, "not in -1..1"),
        ("p", math.nan, "not in -1..1"),
        ("p", math.inf, "not in -1..1"),
        ("q", math.nan, "NaN or infinite"),
        ("q", -math.inf, "NaN or infinite"),
        ("scale", 0.3, "power of 2"),
        ("scale", math.inf, "power of 2"),
        ("plain", math.nan, "NaN or infinite"),
    ],
)
def test_arrays_that_encode_can_not_have_made_are_refused(name: str, value: float, message: str) -> None:
    arrays, _ = encode(PowerSgd(2), noise(SHAPES), SHAPES)
    broken = {other: array.copy() for other, array in arrays.items()}
    broken[name][-1:] = np.array([value]).astype(broken[name].dtype)
    with pytest.raises(PayloadError, match=message):
        PowerSgd(2).decode(broken, SHAPES)


@given(st.binary(min_size=72, max_size=72), st.sampled_from([2.0**100, 1.0, 2.0**-126]))
def test_any_bytes_decode_to_finite_values_or_are_refused(data: bytes, scale: float) -> None:
    arrays: Arrays = {
        "p": np.frombuffer(data[:24], "<f2"),
        "q": np.frombuffer(data[24:56], "<f2"),
        "scale": np.array([scale], "<f4"),
        "plain": np.frombuffer(data[56:68], "<f4"),
    }
    try:
        decoded = PowerSgd(2).decode(arrays, SHAPES)
    except PayloadError:
        return
    assert np.isfinite(decoded).all()
