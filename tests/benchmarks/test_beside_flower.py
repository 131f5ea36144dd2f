from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.beside_flower import PYTHON, Side, compare, measure, ours
from benchmarks.result import SkippedError


@pytest.mark.parametrize(("bits", "error"), [(32, 1e-6), (16, 1e-2)])
def test_a_round_has_the_mean_of_its_survivors_and_counts_what_it_takes(bits: int, error: float) -> None:
    made = ours(np.random.default_rng(0).standard_normal(10_000).astype(np.float32), bits)
    assert 0 < made.error < error
    assert (len(made.client_s), len(made.server_s)) == (15, 1)
    assert bits * 10_000 / 8 < made.up < bits * 10_000 / 8 + 5_000
    assert 15 * 66 < made.down < made.up  # a share of 66 bytes from each other client


def test_what_is_promised_is_fifteen_times_as_fast_with_half_the_bytes() -> None:
    theirs = Side([3.0] * 15, [6.0], 100.0, 10.0, 1e-6)
    fine, coarse = (
        Side([0.1, 0.3, 0.15], [0.3], 51.0, 5.0, 1e-6),
        Side([0.3], [0.6], 26.0, 5.0, 1e-3),
    )
    made = compare(theirs, fine, coarse, 1000)
    assert [target.met for target in made.targets] == [True, True, False, False, False, True]
    assert made.ratios["32 bits: CPU of a client, Flower's to it"] == pytest.approx(20)
    assert made.ratios["16 bits: CPU of the server, Flower's to it"] == pytest.approx(10)


def test_without_flower_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    with pytest.raises(SkippedError, match=r"flwr==1\.42\.0, then set FLOWER_PYTHON"):
        measure(quick=True)
