from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.vectors import vectors
from utils.dp.lattice import MAX_REACH, to_lattice
from utils.errors import ValueRangeError

VALUES = arrays(np.float32, st.integers(0, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def squares(levels: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> int:
    """The sum of squares, in integers without bound."""
    return sum(level * level for level in levels.tolist())


def test_it_gives_the_levels_of_the_reference() -> None:
    for case in vectors("lattice")["cases"]:
        made = to_lattice(np.array(case["values"], np.float32), case["clip"], case["reach"])
        assert made.levels.tolist() == case["levels"]
        assert made.within == case["norm_within_clip"]
        assert squares(made.levels) == case["sum_of_squares"]


@given(values=VALUES, clip=st.floats(1e-6, 1e6), reach=st.integers(1, MAX_REACH))
def test_no_update_is_longer_than_the_reach(values: np.ndarray, clip: float, reach: int) -> None:
    assert squares(to_lattice(values, clip, reach).levels) <= reach * reach


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 40_000])
@pytest.mark.parametrize("reach", [3, 4100, 65_568, MAX_REACH])
def test_updates_of_many_blocks_are_no_longer_either_and_use_what_there_is(size: int, reach: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    length = math.sqrt(squares(to_lattice(values, clip=1e-3, reach=reach).levels))
    assert length <= reach
    # Rounding makes an update sqrt(size / 12) longer, across it; what is beyond twelve times that is used.
    if reach > 12 * math.sqrt(size / 12):
        assert length > 0.99 * reach


def test_a_short_update_keeps_its_length() -> None:
    made = to_lattice(np.array([0.25, 0, -0.5], np.float32), clip=1.0, reach=1000)
    assert made.levels.tolist() == [250, 0, -500]
    assert made.within


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueRangeError, match="not finite"):
        to_lattice(np.array([1.0, value], np.float32), clip=1.0, reach=1000)


def test_the_largest_floats_do_not_overflow() -> None:
    made = to_lattice(np.full(4, np.finfo(np.float32).max, np.float32), clip=1.0, reach=1000)
    assert made.levels.tolist() == [500] * 4
