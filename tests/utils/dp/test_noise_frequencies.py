"""How often each value of the noise comes, from fixed keys, beside the exact probabilities: alone and in shares."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
from numpy.typing import NDArray

from protos import leader_pb2
from tests.statistics import Z, assert_frequencies
from utils.dp.discrete_gaussian import WIDTH, DiscreteGaussian
from utils.dp.shares import add_noise

COUNT = 1 << 18
Pmf = NDArray[np.float64]  # (2 peak + 1,), from -peak to peak


def level() -> Pmf:
    weights = np.exp(-(np.arange(-10 * WIDTH, 10 * WIDTH + 1) ** 2) / (2 * WIDTH**2))
    return np.asarray(weights / weights.sum())


def convolved(one: Pmf, other: Pmf) -> Pmf:
    size = one.size + other.size - 1
    return np.asarray(np.fft.irfft(np.fft.rfft(one, size) * np.fft.rfft(other, size), size))


def pmf_of(multipliers: tuple[int, ...]) -> Pmf:
    """Of X0 + m1 X1 + m1 m2 X2 + ..."""
    found, step = level(), 1
    for multiplier in multipliers:
        step *= multiplier
        apart = np.zeros((level().size - 1) * step + 1)
        apart[::step] = level()
        found = convolved(apart, found)
    return found


def drawn(multipliers: tuple[int, ...], learners: int) -> NDArray[np.int64]:
    """The sum of what so many learners add to nothing, each from a key of its own."""
    plan = leader_pb2.NoisePlan(clip=1.0, reach=1, spread=multipliers)
    total = np.zeros(COUNT, np.uint32)
    for number in range(learners):
        words = np.zeros(COUNT, np.uint32)
        add_noise(words, plan, bytes([number + 1]) * 32, f"work-{number}")
        total += words
    return total.view(np.int32).astype(np.int64)


@pytest.mark.parametrize("learners", [1, 3])
@pytest.mark.parametrize("multipliers", [(), (2,), (32,)])
def test_the_noise_is_as_the_exact_probabilities_have_it(multipliers: tuple[int, ...], learners: int) -> None:
    pmf = reduce(convolved, [pmf_of(multipliers)] * learners)
    peak, noise = pmf.size // 2, drawn(multipliers, learners)
    sigma = DiscreteGaussian(multipliers).sigma * math.sqrt(learners)
    assert math.sqrt(pmf @ np.arange(-peak, peak + 1.0) ** 2) == pytest.approx(sigma, rel=1e-9)
    assert abs(noise.mean()) < Z * sigma / math.sqrt(COUNT)
    assert noise.var() == pytest.approx(sigma**2, rel=Z * math.sqrt(2 / COUNT))
    width = max(1, int(sigma / 32))  # classes; the tails are one each
    edges = np.arange(-3 * sigma, 3 * sigma, width).astype(np.int64)
    classes = np.searchsorted(edges, np.arange(-peak, peak + 1), side="right")
    expected = np.asarray(np.bincount(classes, pmf) * COUNT, np.float64)
    seen = np.bincount(classes[noise + peak], minlength=expected.size)
    assert_frequencies(seen, expected)
    for modulus in (7, 64):
        rest = np.arange(-peak, peak + 1) % modulus
        assert_frequencies(
            np.bincount(rest[noise + peak]), np.asarray(np.bincount(rest, pmf) * COUNT, np.float64)
        )


def test_a_little_more_or_less_noise_than_planned_is_noticed() -> None:
    """The bounds are narrow enough: noise that is a hundredth too small is beyond them."""
    noise, sigma = drawn((32,), 1), DiscreteGaussian((32,)).sigma
    assert (noise * 99 // 100).var() != pytest.approx(sigma**2, rel=Z * math.sqrt(2 / COUNT))
