from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.dp.accountant import Accountant
from tests.vectors import vectors
from utils.dp.gaussian import least_noise, releases_within


def test_releases_of_other_noise_add_up_as_in_the_reference() -> None:
    for case in vectors("epsilon")["mixed"]:
        accountant = Accountant(100.0, case["delta"])
        for z in case["zs"]:
            accountant.charge(["own-a"], z)
        assert accountant.spent("own-a") == pytest.approx(case["epsilon"], rel=1e-9)
        assert accountant.spent("own-b") == 0


def test_who_was_in_most_is_told_and_nobody_pays_for_another() -> None:
    accountant = Accountant(8.0, 1e-5)
    assert accountant.spent_max == 0
    accountant.charge(["own-a", "own-b"], 4.0)
    accountant.charge(["own-b"], 4.0)
    assert accountant.spent_max == accountant.spent("own-b") > accountant.spent("own-a") > 0
    assert accountant.parts == {"own-a", "own-b"}


@given(releases=st.integers(1, 3000), epsilon=st.floats(0.05, 100), delta=st.sampled_from([1e-3, 1e-5, 1e-9]))
def test_the_least_noise_that_pays_pays_so_many_releases_and_no_more(
    releases: int, epsilon: float, delta: float
) -> None:
    z = least_noise(epsilon, delta, releases)
    assert releases_within(epsilon, delta, z) == releases
    accountant = Accountant(epsilon, delta)
    for number in range(releases):
        assert accountant.releases_left(z) == releases - number
        assert accountant.can_pay("own-a", z)
        accountant.charge(["own-a"], z)
    assert accountant.spent_max <= epsilon * (1 + 1e-9)
    assert accountant.releases_left(z) == 0
    assert not accountant.can_pay("own-a", z)
    assert accountant.can_pay("own-b", z)


def test_what_one_more_release_would_come_to_is_what_it_comes_to() -> None:
    accountant = Accountant(8.0, 1e-5)
    accountant.charge(["own-a"], 3.0)
    expected = accountant.spent_after("own-a", 2.0)
    accountant.charge(["own-a"], 2.0)
    assert math.isclose(accountant.spent("own-a"), expected)
