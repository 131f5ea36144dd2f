from __future__ import annotations

import math

import mpmath  # type: ignore[import-untyped]
import pytest

from tests.vectors import vectors
from utils.dp.gaussian import delta_of, epsilon_of, mu_of


def exact_delta(epsilon: float, mu: float) -> mpmath.mpf:
    """Balle and Wang's theorem 8 in 400 bits."""
    with mpmath.workprec(400):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


def test_it_gives_the_epsilons_of_the_reference() -> None:
    reference = vectors("epsilon")
    for case in reference["gaussian"]:
        mu = math.sqrt(case["participations"]) / case["z"]
        assert epsilon_of(mu, case["delta"]) == pytest.approx(case["epsilon"], rel=1e-9)
    for case in reference["mixed"]:
        mu = math.sqrt(sum(1 / z**2 for z in case["zs"]))
        assert epsilon_of(mu, case["delta"]) == pytest.approx(case["epsilon"], rel=1e-9)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_epsilon_is_where_the_exact_curve_meets_delta(mu: float, delta: float) -> None:
    epsilon = epsilon_of(mu, delta)
    if epsilon == 0:
        assert exact_delta(0.0, mu) <= delta
    else:
        assert float(exact_delta(epsilon, mu)) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("epsilon", "mu"), [(0.0, 1.0), (1.0, 0.1), (2000.0, 50.0), (5.0, 2.0)])
def test_delta_is_that_of_the_exact_curve(epsilon: float, mu: float) -> None:
    assert delta_of(epsilon, mu) == pytest.approx(float(exact_delta(epsilon, mu)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 100.0, 1000.0])
def test_the_largest_mu_of_an_epsilon_is_within_it_and_more_is_not(epsilon: float) -> None:
    mu = mu_of(epsilon, 1e-5)
    assert epsilon_of(mu, 1e-5) <= epsilon * (1 + 1e-12)
    assert epsilon_of(mu * (1 + 1e-9), 1e-5) > epsilon


def test_no_release_costs_nothing() -> None:
    assert epsilon_of(0.0, 1e-5) == 0
    assert delta_of(0.0, 0.0) == 0
