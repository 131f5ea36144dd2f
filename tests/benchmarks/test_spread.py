from __future__ import annotations

from benchmarks.spread import Spread


def test_median_and_quartiles_do_not_depend_on_the_order() -> None:
    assert Spread.of([9.0, 1.0, 3.0, 7.0, 5.0]) == Spread(median=5.0, lower=3.0, upper=7.0, count=5)


def test_an_even_number_of_values_is_interpolated() -> None:
    assert Spread.of([1.0, 2.0, 3.0, 4.0]) == Spread(median=2.5, lower=1.75, upper=3.25, count=4)


def test_one_value_has_no_spread() -> None:
    assert Spread.of([2.5]) == Spread(2.5, 2.5, 2.5, 1)


def test_another_unit_scales_all_but_the_count() -> None:
    assert Spread(2.0, 1.0, 4.0, 9).scaled(1e3) == Spread(2000.0, 1000.0, 4000.0, 9)
