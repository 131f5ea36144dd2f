"""Poisson sampling: divergences and epsilons of the reference, within the tolerances that it asks for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.vectors import vectors
from utils.dp.sampled_gaussian import ORDERS, divergences_of, epsilon_of, least_noise

REFERENCE = vectors("dp_epsilon")


def test_epsilons_are_those_of_the_exact_integral() -> None:
    for case in REFERENCE["settings"]:
        spent = case["rounds"] * divergences_of(case["q"], case["noise_multiplier"])
        epsilon = epsilon_of(spent, case["delta"])
        assert case["rdp_epsilon_exact_integral"] * (1 - 1e-6) <= epsilon <= case["rdp_epsilon"] * (1 + 1e-6)
        assert epsilon > case["true_epsilon_bracket"][0]  # a bound


def test_divergences_are_those_of_the_exact_integral() -> None:
    compared = 0
    for case in REFERENCE["rdp_curves_one_round"]:
        found = divergences_of(case["q"], case["noise_multiplier"])
        for order, expected in zip(case["orders"], case["rdp_exact_integral"], strict=True):
            if order in ORDERS:
                assert found[list(ORDERS).index(order)] == pytest.approx(expected, rel=1e-6)
                compared += 1
    assert compared > 50


def test_steps_of_other_rates_and_noise_add_up() -> None:
    case = REFERENCE["heterogeneous_composition"]
    parts = [one["rounds"] * divergences_of(one["q"], one["noise_multiplier"]) for one in case["events"]]
    assert epsilon_of(np.sum(parts, axis=0), case["delta"]) == pytest.approx(case["rdp_epsilon"], rel=1e-3)


def test_the_least_noise_pays_and_is_that_of_the_reference() -> None:
    cases = [case for case in REFERENCE["calibration"] if case["accountant"] == "rdp"]
    assert len(cases) >= 2
    for case in cases:
        noise = least_noise(case["q"], case["rounds"], case["target_epsilon"], case["delta"])
        assert noise == pytest.approx(case["noise_multiplier"], rel=2e-3)
        spent = case["rounds"] * divergences_of(case["q"], noise)
        assert epsilon_of(spent, case["delta"]) <= case["target_epsilon"]


def test_nothing_done_is_nothing_spent() -> None:
    assert epsilon_of(0 * divergences_of(0.1, 1.0), 1e-5) == 0.0
