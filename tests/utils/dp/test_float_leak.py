"""Why noise is made of integers: in floats its low bits tell the neighbouring sums apart (Mironov 2012)."""

from __future__ import annotations

import numpy as np

from utils.dp.discrete_gaussian import DiscreteGaussian

COUNT, SIGMA = 1 << 20, 4.0
GRID = 2.0**-24  # of float32 from 0.5 to 1: where 1 + noise cancels, it stays on the grid that the noise had


def test_float_noise_tells_a_zero_from_a_one_for_certain() -> None:
    noise = (SIGMA * np.random.default_rng(0).standard_normal(COUNT)).astype(np.float32)
    certain = {}
    for value in (0.0, 1.0):
        told = (np.float32(value) + noise).astype(np.float64)
        certain[value] = int(((np.abs(told) < 0.25) & (told % GRID != 0)).sum())
    assert certain[0.0] > 10_000  # so many coordinates are zero beyond doubt
    assert certain[1.0] == 0  # and none of these guesses is wrong


def test_on_the_lattice_the_same_question_has_no_answer() -> None:
    noise = DiscreteGaussian((32, 32)).draw(bytes(range(32)), COUNT)
    for value in (0, 1, 31, 32, 33, 1024):
        counts = np.bincount((noise + value) % 1024, minlength=1024)
        statistic = float(((counts - COUNT / 1024) ** 2 / (COUNT / 1024)).sum())
        assert abs(statistic - 1023) < 4 * np.sqrt(2 * 1023)
