from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leader.aggregation.exact_sum import ExactSum, Scale
from utils.errors import LimitError, ValueRangeError
from utils.vector import Vector

pytestmark = pytest.mark.usefixtures("addition")

Update = tuple[int, Vector]
SIZE = 3

magnitudes = st.floats(2.0**-20, 2.0**20)


@st.composite
def scales(draw: st.DrawFn, most_bits: int = 40) -> Scale:
    max_abs = draw(magnitudes)
    weight_bits = draw(st.integers(0, min(most_bits, 46 - math.frexp(max_abs)[1])))
    return Scale.of(max_abs, draw(st.integers(1, 1 << weight_bits)))


def vectors(scale: Scale) -> st.SearchStrategy[Vector]:
    bound = float(np.nextafter(np.float32(scale.max_abs), np.float32(0)))
    values = st.floats(-bound, bound, width=32)
    return st.lists(values, min_size=SIZE, max_size=SIZE).map(lambda v: np.array(v, np.float32))


@st.composite
def updates(draw: st.DrawFn, most_bits: int = 40) -> tuple[Scale, list[Update]]:
    scale = draw(scales(most_bits))
    room, some = scale.max_weight, []
    for _ in range(draw(st.integers(1, 6))):
        if room:
            some.append((draw(st.integers(1, room)), draw(vectors(scale))))
            room -= some[-1][0]
    return scale, some


def summed(scale: Scale, some: list[Update]) -> ExactSum:
    total = ExactSum(SIZE, scale)
    for weight, values in some:
        total.check_weight(weight)
        total.add(values, weight)
        total.count(weight)
    return total


def integers(total: ExactSum) -> list[int]:
    return [int(value) for value in total._sums]


def rational(scale: Scale, some: list[Update], element: int) -> int:
    """The sum in units of 2**-fraction_bits, in unbounded arithmetic; round() takes half to even."""
    unit = 1 << scale.fraction_bits
    return sum(weight * round(Fraction(float(values[element])) * unit) for weight, values in some)


def nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to `exact`, half to even."""
    start = np.float32(float(exact))
    around = [np.nextafter(start, np.float32(-np.inf)), start, np.nextafter(start, np.float32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.int32)) % 2))


@given(updates())
def test_the_sum_is_the_rational_sum_of_the_rounded_values(case: tuple[Scale, list[Update]]) -> None:
    scale, some = case
    assert integers(summed(scale, some)) == [rational(scale, some, i) for i in range(SIZE)]


@given(updates(most_bits=26))
def test_the_mean_is_the_rational_mean_rounded_once(case: tuple[Scale, list[Update]]) -> None:
    scale, some = case
    total = summed(scale, some)
    for i, mean in enumerate(total.mean()):
        units = rational(scale, some, i)
        exact = Fraction(units, total.weight << scale.fraction_bits)
        if abs(units) < 1 << 53:
            assert mean == nearest(exact)
        # Beyond 2**53 the sum is rounded to float64 first: 2**-52 of it, against 2**-24 for float32.
        half_unit = Fraction(float(np.spacing(np.abs(nearest(exact))))) / 2
        assert abs(Fraction(float(mean)) - exact) <= half_unit * (1 + Fraction(1, 1 << 26))


@given(updates(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_and_any_grouping_give_the_same_bits(
    case: tuple[Scale, list[Update]], random: Random, groups: int
) -> None:
    scale, some = case
    expected = summed(scale, some)
    shuffled = list(some)
    random.shuffle(shuffled)
    partial = [summed(scale, shuffled[i::groups]) for i in range(groups)]
    merged = partial.pop()
    while partial:
        merged.merge(partial.pop())
    assert integers(merged) == integers(expected)
    assert merged.weight == expected.weight
    assert merged.mean().tobytes() == expected.mean().tobytes()


@given(updates())
def test_a_vector_added_in_pieces_is_the_vector_added_at_once(case: tuple[Scale, list[Update]]) -> None:
    scale, some = case
    whole, pieces = ExactSum(SIZE, scale), ExactSum(SIZE, scale)
    for weight, values in some:
        whole.add(values, weight)
        pieces.add(values[1:], weight, start=1)
        pieces.add(values[:1], weight)
    assert integers(pieces) == integers(whole)


def test_vectors_longer_than_a_block_are_summed_to_the_end() -> None:
    scale = Scale.of(4.0, 1000)
    generator = np.random.Generator(np.random.PCG64(0))
    first, second = (generator.uniform(-4, 4, 150_001).astype(np.float32) for _ in range(2))
    total = ExactSum(150_001, scale)
    total.add(first, 3)
    total.add(second, 997)
    unit = 2.0**scale.fraction_bits
    expected = 3 * np.rint(first * unit).astype(np.int64) + 997 * np.rint(second * unit).astype(np.int64)
    np.testing.assert_array_equal(total._sums, expected)
    total.count(1000)
    np.testing.assert_array_equal(total.mean(), (expected / (1000 * unit)).astype(np.float32))


@given(max_abs=magnitudes, max_weight=st.integers(1, 1 << 62), sign=st.sampled_from([-1, 1]))
@example(max_abs=2.0**20, max_weight=1 << 25, sign=-1)
@example(max_abs=2.0**20 - 1e-9, max_weight=1 << 25, sign=1)
@example(max_abs=2.0**-20, max_weight=1 << 62, sign=1)
@example(max_abs=1024.0, max_weight=(1 << 35) - 1, sign=-1)
def test_the_largest_sum_that_the_plan_allows_fits(max_abs: float, max_weight: int, sign: int) -> None:
    try:
        scale = Scale.of(max_abs, max_weight)
    except LimitError:
        return
    assert scale.max_weight >= max_weight
    largest = np.full(SIZE, sign * np.float32(max_abs), np.float32)
    total = ExactSum(SIZE, scale)
    for weight in (scale.max_weight - scale.max_weight // 2, scale.max_weight // 2):
        total.check_weight(weight)
        total.add(largest, weight)
        total.count(weight)
    assert integers(total) == [rational(scale, [(scale.max_weight, largest)], 0)] * SIZE
    assert abs(integers(total)[0]) < 1 << 63
    assert total.mean() == pytest.approx(largest, rel=2.0**-24, abs=2.0**-scale.fraction_bits)


def test_a_plan_too_coarse_to_be_useful_is_refused() -> None:
    assert Scale.of(2.0**20 - 1, 1 << 26).fraction_bits == 16
    with pytest.raises(LimitError, match="leaves 15 fraction bits in the exact sum, at least 16 are needed"):
        Scale.of(2.0**20 - 1, (1 << 26) + 1)


def test_small_sums_have_a_resolution_of_2_to_the_minus_40_and_no_finer_one() -> None:
    assert Scale.of(1.0, 100).fraction_bits == 40
    values = np.array([2.0**-40, 1.5 * 2.0**-40, 2.0**-42], np.float32)
    assert integers(summed(Scale.of(1.0, 100), [(1, values)])) == [1, 2, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.0000001, -1.0000001, 3e38])
@pytest.mark.parametrize("place", range(SIZE))
def test_a_value_out_of_range_is_refused_wherever_it_stands(bad: float, place: int) -> None:
    values = np.array([-1.0, 0.0, 1.0], np.float32)
    total = summed(Scale.of(1.0, 100), [(3, values)])
    values[place] = bad
    with pytest.raises(ValueRangeError, match=r"finite values within \+-1 are taken"):
        total.add(values, 3)
    assert integers(total) == [-3 << 40, 0, 3 << 40]


@pytest.mark.parametrize("weight", [0, -1, 62, 1 << 70])
def test_a_weight_outside_the_plan_is_refused(weight: int) -> None:
    total = summed(Scale.of(1.0, 64), [(3, np.ones(SIZE, np.float32))])
    with pytest.raises(LimitError, match=f"weight {weight} is outside 1..61 of the round plan"):
        total.check_weight(weight)
    total.check_weight(61)


@given(scales(most_bits=20), st.data())
def test_a_factor_multiplies_the_values_before_they_are_rounded(scale: Scale, data: st.DataObject) -> None:
    values, factor = data.draw(vectors(scale)), data.draw(st.floats(0, 1))
    total = ExactSum(SIZE, scale)
    total.add(values, 1, factor=factor)
    unit = 1 << scale.fraction_bits
    exact = [round(Fraction(float(value) * factor) * unit) for value in values]
    assert integers(total) == exact


@pytest.mark.parametrize("factor", [2.0, 1e300, math.nan, math.inf])
def test_values_are_in_range_after_their_factor(factor: float) -> None:
    values, total = np.array([-0.6, 0.0, 0.6], np.float32), ExactSum(SIZE, Scale.of(1.0, 64))
    total.add(values, 1)
    with pytest.raises(ValueRangeError, match="in the update, times its factor of"):
        total.add(values, 1, factor=factor)
    total.add(np.float32(1e30) * values, 1, factor=1e-30)
    before = integers(total)
    with pytest.raises(ValueRangeError):
        total.add(np.array([1.0, math.inf, 1.0], np.float32), 1, factor=1e-30)
    assert integers(total) == before


def test_the_mean_may_be_taken_with_a_scalar() -> None:
    total = summed(Scale.of(4.0, 64), [(1, np.array([1, 2, 3], np.float32)), (3, np.ones(SIZE, np.float32))])
    assert total.mean(scalar=4.0).tolist() == [4.0, 5.0, 6.0]
    assert total.mean(scalar=1.0).tobytes() == total.mean().tobytes()


def test_partial_sums_of_another_plan_are_refused() -> None:
    scale = Scale.of(1.0, 64)
    total = summed(scale, [(3, np.ones(SIZE, np.float32))])
    for other in (ExactSum(SIZE, replace(scale, fraction_bits=20)), ExactSum(SIZE + 1, scale)):
        with pytest.raises(LimitError, match="different scale or size"):
            total.merge(other)
    assert total.weight == 3


def test_the_mean_of_nothing_is_zero() -> None:
    assert ExactSum(SIZE, Scale.of(1.0, 64)).mean().tolist() == [0.0] * SIZE


spans = st.tuples(st.integers(0, 9), st.integers(1, 10)).map(lambda span: (span[0], min(10, sum(span))))


@given(st.lists(st.tuples(spans, st.integers(1, 9)), max_size=6))
def test_runs_may_come_in_any_order_and_what_none_covers_is_zero(
    runs: list[tuple[tuple[int, int], int]],
) -> None:
    total, expected = ExactSum(10, Scale.of(1024.0, 1 << 10)), np.zeros(10, np.int64)
    total._sums[:] = 77  # what memory may hold
    for (start, stop), weight in runs:
        total.add(np.arange(start, stop, dtype=np.float32), weight, start)
        expected[start:stop] += weight * np.arange(start, stop) << total.scale.fraction_bits
    total.count(1)
    merged = ExactSum(10, total.scale)
    merged.merge(total)
    assert merged._sums.tolist() == expected.tolist()
    assert total.mean().tolist() == (expected / 2.0**total.scale.fraction_bits).tolist()
