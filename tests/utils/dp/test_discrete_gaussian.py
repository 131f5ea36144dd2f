from __future__ import annotations

import hashlib
import math

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest

from tests.vectors import vectors
from utils.dp.discrete_gaussian import WIDTH, DiscreteGaussian, alias_table

KEY = bytes(range(32))
SLOTS, THRESHOLD = 2048, 1 << 53


def sha256(values: np.ndarray, dtype: str) -> str:
    return hashlib.sha256(values.astype(dtype).tobytes()).hexdigest()


def test_it_draws_what_the_reference_draws() -> None:
    reference = vectors("discrete_gaussian")
    thresholds, values, aliases = alias_table()
    assert sha256(thresholds, "<u8") == reference["threshold_sha256"]
    assert sha256(values, "<i4") == reference["value_sha256"]
    assert sha256(aliases, "<i4") == reference["alias_sha256"]
    for case in reference["cases"]:
        noise = DiscreteGaussian(tuple(case["ms"]))
        drawn = noise.draw(KEY, 100_000)
        assert noise.sigma == case["sigma"]
        assert drawn[:16].tolist() == case["first"]
        assert noise.draw(KEY, 4, start=65_536).tolist() == case["from_65536"]
        assert drawn.mean() == pytest.approx(case["mean"], abs=1e-9)
        assert drawn.std() == pytest.approx(case["std"], abs=1e-6)
        assert sha256(drawn, "<i4") == case["sha256_int32_le"]


def test_the_table_is_the_discrete_gaussian_to_its_last_bit() -> None:
    thresholds, values, aliases = alias_table()
    mass = dict.fromkeys(range(-640, 641), 0)  # of 2**64
    for threshold, value, alias in zip(thresholds.tolist(), values.tolist(), aliases.tolist(), strict=True):
        mass[value] += threshold
        mass[alias] += THRESHOLD - threshold
    assert sum(mass.values()) == SLOTS * THRESHOLD
    with mpmath.workprec(200):
        weights = {x: mpmath.exp(-mpmath.mpf(x * x) / (2 * WIDTH * WIDTH)) for x in mass}
        total = mpmath.fsum(weights.values())
        off = [abs(mass[x] - weights[x] / total * 2**64) for x in mass]
        assert max(off) < 12  # thresholds that are half a unit off, of the thirteen slots of zero
        assert mpmath.fsum(off) / 2 / 2**64 < mpmath.mpf(2) ** -54


@pytest.mark.parametrize("start", [0, 2, 32_766, 32_768, 40_000])
def test_any_part_of_the_noise_can_be_drawn_alone(start: int) -> None:
    noise = DiscreteGaussian((32, 32))
    whole = noise.draw(KEY, 70_001)
    assert noise.draw(KEY, 70_001 - start, start).tobytes() == whole[start:].tobytes()


def test_other_keys_draw_other_noise() -> None:
    noise = DiscreteGaussian((32,))
    one, other = noise.draw(KEY, 100_000), noise.draw(bytes(32), 100_000)
    together = float(np.mean(one.astype(float) * other)) / noise.sigma**2
    assert abs(together) < 4 / math.sqrt(100_000)


def test_the_counts_of_a_level_are_those_of_the_distribution() -> None:
    count, reach = 1 << 20, 3 * WIDTH
    drawn = DiscreteGaussian(()).draw(KEY, count)
    weights = np.exp(-(np.arange(-640, 641) ** 2) / (2 * WIDTH * WIDTH))
    expected = weights[640 - reach : 640 + reach + 1] / weights.sum() * count
    seen = np.bincount(drawn[abs(drawn) <= reach] + reach, minlength=expected.size)
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert abs(statistic - expected.size) < 4 * math.sqrt(2 * expected.size)


@pytest.mark.parametrize("multipliers", [(32,), (32, 32), (32, 32, 32)])
def test_the_noise_has_the_moments_of_a_gaussian(multipliers: tuple[int, ...]) -> None:
    noise, count = DiscreteGaussian(multipliers), 1 << 20
    drawn = noise.draw(KEY, count) / noise.sigma
    assert abs(drawn.mean()) < 4 / math.sqrt(count)
    assert abs((drawn**2).mean() - 1) < 4 * math.sqrt(2 / count)
    assert abs((drawn**4).mean() - 3) < 4 * math.sqrt(96 / count)
    beyond = (abs(drawn) > 2).mean()
    assert abs(beyond - math.erfc(math.sqrt(2))) < 4 * math.sqrt(0.0455 / count)


def test_the_low_bits_tell_nothing() -> None:
    drawn = DiscreteGaussian((32, 32)).draw(KEY, 1 << 20)
    for modulus in (2, 3, 32, 64):
        counts = np.bincount(drawn % modulus, minlength=modulus)
        expected = drawn.size / modulus
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert statistic < modulus - 1 + 5 * math.sqrt(2 * modulus)


def test_what_may_be_promised_is_less_than_sigma_by_the_rounding() -> None:
    noise = DiscreteGaussian((32, 32))
    assert noise.accounted == pytest.approx(math.sqrt(65_568.0234260573**2 - 16))
    assert noise.accounted < noise.sigma
