from __future__ import annotations

import math

import pytest

from leader.dp.clipping import bit_sigma, next_clip
from leader.dp.noise import Mechanism
from tests.vectors import vectors


def test_the_clip_follows_the_quantile_as_in_the_reference() -> None:
    for step in vectors("adaptive_clipping")["steps"]:
        after = next_clip(step["clip"], step["noisy_share_within"], step["gamma"], step["eta"])
        assert after == pytest.approx(step["next"], rel=1e-12)


def test_it_rises_while_too_many_are_clipped_and_falls_while_too_few_are() -> None:
    assert next_clip(1.0, within=0.1, quantile=0.5, rate=0.2) > 1.0
    assert next_clip(1.0, within=0.9, quantile=0.5, rate=0.2) < 1.0
    assert next_clip(1.0, within=0.5, quantile=0.5, rate=0.2) == 1.0


def test_a_share_that_noise_has_driven_out_of_its_range_moves_it_no_further_than_its_ends() -> None:
    assert next_clip(1.0, -7.0, 0.5, 0.2) == next_clip(1.0, 0.0, 0.5, 0.2)
    assert next_clip(1.0, 9.0, 0.5, 0.2) == next_clip(1.0, 1.0, 0.5, 0.2)


def test_the_bit_and_the_values_share_the_noise_as_in_the_reference() -> None:
    for case in vectors("epsilon")["adaptive_clipping_split"]:
        mechanism = Mechanism.of(case["z"], 400_000, case["sigma_b"])
        assert mechanism.noise.sigma / mechanism.value_reach == pytest.approx(case["z_delta"], rel=1e-4)
        squares = mechanism.value_reach**2 + (mechanism.bit // 2) ** 2
        assert squares <= mechanism.reach**2


@pytest.mark.parametrize("updates", [2, 20, 1000])
@pytest.mark.parametrize("z", [0.5, 4.0, 30.0])
def test_the_bit_costs_a_tenth_at_most(updates: int, z: float) -> None:
    assert (2 * bit_sigma(z, updates)) ** -2 <= 0.1 * z**-2
    mechanism = Mechanism.of(z, 100_000, bit_sigma(z, updates))
    assert mechanism.value_reach > math.sqrt(0.9) * mechanism.reach
