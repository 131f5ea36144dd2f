"""The attacks do what their papers say, so that a rule which survives them has survived something."""

from __future__ import annotations

import numpy as np
import pytest

from tests.poison import ALittleIsEnough, Gaussian, Scaled, SignFlip, flip_labels

HONEST = np.array([[1, 0], [3, 0], [2, 6]], np.float32)


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0))


def test_sign_flip_and_boost_scale_the_own_update() -> None:
    own = HONEST[1]
    assert SignFlip()(own, HONEST, rng()).tolist() == [-3, 0]
    assert SignFlip(2.0)(own, HONEST, rng()).tolist() == [-6, 0]
    assert Scaled()(own, HONEST, rng()).tolist() == [300, 0]


def test_gaussian_noise_has_the_deviation_asked_for_and_comes_from_the_generator() -> None:
    own = np.full(100_000, 7, np.float32)
    noise = Gaussian(5.0)(own, own[None, :], rng())
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(5, abs=0.1)
    assert noise.tobytes() == Gaussian(5.0)(own, own[None, :], rng()).tobytes()


@pytest.mark.parametrize(
    ("learners", "attackers", "shift"),
    [
        (50, 24, 1.426),  # s = 26 - 24 = 2 of 26 honest ones: quantile of 24/26
        (51, 12, 0.361),  # s = 26 - 12 = 14 of 39: quantile of 25/39
        (10, 4, 0.431),  # s = 6 - 4 = 2 of 6: quantile of 2/3
        (10, 2, 0.0),  # s = 4 of 8: no room to hide
    ],
)
def test_a_little_shifts_by_the_quantile_of_the_normal(learners: int, attackers: int, shift: float) -> None:
    assert ALittleIsEnough(learners).shift(attackers) == pytest.approx(shift, abs=1e-3)


def test_a_little_is_mean_minus_shift_times_deviation_of_the_colluders() -> None:
    attack = ALittleIsEnough(8)  # three attackers: s = 2 of 5 honest, quantile of 0.6 = 0.2533
    z = 0.2533
    expected = [2 - z * np.sqrt(2 / 3), 2 - z * np.sqrt(8)]
    for own in HONEST:
        assert attack(own, HONEST, rng()) == pytest.approx(expected, abs=1e-3)


def test_flipped_labels_are_counted_from_the_other_end() -> None:
    assert flip_labels(np.array([0, 1, 4, 9]), 10).tolist() == [9, 8, 5, 0]
