from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.learners.selection.draws import raw_draws, smallest, smallest_draws, unit, weighted


def test_raw_draws_are_the_same_on_every_machine_and_more_begin_with_the_same() -> None:
    first = raw_draws(2, seed=0, round_=1).tolist()
    assert first == [10579467932089953309, 11582783292870426411]
    assert raw_draws(5, seed=0, round_=1)[:2].tolist() == first


def test_a_unit_draw_is_never_0_and_rises_with_the_draw() -> None:
    assert unit(0) == 2.0**-54
    assert unit(1 << 63) == 0.5 + 2.0**-54
    assert unit((1 << 64) - 1) == 1.0


def test_equal_keys_go_by_position() -> None:
    assert smallest([2.0, 1.0, 1.0, 0.0], 3) == [3, 1, 2]


@given(st.lists(st.integers(0, 3) | st.integers(0, (1 << 64) - 1), min_size=1), st.data())
def test_the_smallest_draws_are_picked_in_the_same_order_with_an_array(
    draws: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(draws)))
    assert smallest_draws(np.array(draws, np.uint64), count) == smallest(draws, count)


def test_weighted_keys_are_minus_log_over_weight() -> None:
    half, tenth = 1 << 63, int(0.1 * 2**64)
    # Keys: ln 2 / 1 = 0.693, ln 10 / 4 = 0.576, ln 10 / 3 = 0.768, and infinity.
    assert weighted([1.0, 4.0, 3.0, 0.0], 4, [half, tenth, tenth, half]) == [1, 0, 2, 3]
    assert math.isclose(-math.log(unit(tenth)) / 4, 0.5756, rel_tol=1e-4)


def test_every_weight_needs_a_draw() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weighted([1.0, 2.0], 1, [5])
