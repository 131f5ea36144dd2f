from __future__ import annotations

import math

import pytest

from leader.dp.noise import Mechanism, derive_key, new_key, next_key
from utils.dp.lattice import MAX_REACH

KEY = bytes(range(32))


@pytest.mark.parametrize("z", [0.01, 0.3, 1.0, 6.0023, 80.0, 1000.0])
@pytest.mark.parametrize("size", [1, 100, 412_954, 11_173_962])
def test_the_noise_is_at_least_what_is_charged(z: float, size: int) -> None:
    mechanism = Mechanism.of(z, size)
    assert mechanism.noise.accounted >= z * mechanism.reach
    assert 1 <= mechanism.reach <= MAX_REACH
    assert mechanism.value_reach == mechanism.reach


@pytest.mark.parametrize(("z", "size"), [(1.0, 412_954), (5.0, 11_173_962), (20.0, 400_000), (1.0, 100)])
def test_the_lattice_is_fine_enough_that_rounding_costs_nothing(z: float, size: int) -> None:
    mechanism = Mechanism.of(z, size)
    assert math.sqrt(size / 12) < 0.032 * mechanism.reach
    assert mechanism.noise.accounted == pytest.approx(z * mechanism.reach, rel=1e-3)


def test_the_key_of_the_next_round_tells_nothing_of_this_one() -> None:
    chain = [KEY]
    for _ in range(5):
        chain.append(next_key(chain[-1]))
    assert len(set(chain)) == 6
    assert {len(key) for key in chain} == {32}
    assert chain[1] == derive_key(KEY, b"next") != derive_key(KEY, b"noise 1")
    assert new_key() != new_key()
