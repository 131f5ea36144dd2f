from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.model import BYTES, MEMORY, SECONDS, Law, fit, held_bytes

POINTS = [(1, 4e5), (2, 4e5), (4, 4e5), (1, 1.1e7), (2, 1.1e7), (4, 1.1e7)]

constants = st.floats(1e-3, 1e3)


@given(constants, constants, constants, constants)
def test_the_constants_of_exact_points_are_found(a: float, b: float, c: float, d: float) -> None:
    law = Law(SECONDS, (a, b, c, d))
    found = fit(SECONDS, POINTS, [law(*point) for point in POINTS])
    assert found(8, 2.4e7) == pytest.approx(law(8, 2.4e7), rel=1e-6)


def test_a_constant_that_would_be_negative_is_zero() -> None:
    falling = [10 - learners for learners, _ in POINTS]
    law = fit(SECONDS, POINTS, falling)
    assert min(law.constants) == 0
    assert law.constants[1] == 0


def test_small_values_weigh_as_much_as_large_ones() -> None:
    values = [1e-3 * (1 + learners) if parameters < 1e6 else 100.0 for learners, parameters in POINTS]
    law = fit(SECONDS, POINTS, values)
    errors = [law(*point) / value - 1 for point, value in zip(POINTS, values, strict=True)]
    assert np.abs(errors[:3]).max() < 0.2


def test_bytes_grow_with_learners_and_with_what_each_sends() -> None:
    law = fit(BYTES, POINTS, [learners * (5000 + 4 * parameters) for learners, parameters in POINTS])
    assert law.constants == pytest.approx((5000, 4), rel=1e-6)


def test_the_budget_bounds_the_uploads_that_are_held() -> None:
    assert held_bytes(2, 1e6) == 8e6  # both fit
    assert held_bytes(4, 11e6) == 2 * 44e6 + 2 * (2 << 20)  # two fit, two wait with a window each
    assert held_bytes(2, 1e9) == 4e9 + (2 << 20)  # larger than the budget: let in alone


def test_memory_counts_the_model_and_not_the_learners() -> None:
    law = Law(MEMORY, (600e6, 20.0, 1.0))
    assert law(64, 11e6) - law(4, 11e6) == 60 * (2 << 20)
