from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.beside_flower import PYTHON, Side, compare, measure, ours
from benchmarks.result import SkippedError


def test_a_round_has_the_mean_of_its_survivors_and_counts_what_it_takes() -> None:
    made = ours(np.random.default_rng(0).standard_normal(10_000).astype(np.float32))
    assert 0 < made.error < 1e-6
    assert (len(made.client_s), len(made.server_s)) == (15, 1)
    assert 40_000 < made.up < 45_000
    assert 15 * 66 < made.down < made.up  # a share of 66 bytes from each other client


def test_what_is_promised_is_fifteen_times_as_fast_with_half_the_bytes() -> None:
    theirs = Side([3.0] * 15, [6.0], 100.0, 10.0, 1e-6)
    made = compare(theirs, Side([0.1, 0.3, 0.15], [0.3], 51.0, 5.0, 1e-6), 1000)
    assert [target.met for target in made.targets] == [True, True, False]
    assert made.ratios["CPU of a client, Flower's to ours"] == pytest.approx(20)
    assert made.ratios["CPU of the server, Flower's to ours"] == pytest.approx(20)


def test_without_flower_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    with pytest.raises(SkippedError, match=r"flwr==1\.42\.0, then set FLOWER_PYTHON"):
        measure(quick=True)
