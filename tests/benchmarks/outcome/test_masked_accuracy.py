from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import describe_machine
from benchmarks.outcome.masked_accuracy import FULL, PLAIN, QUICK, page, rows, run_once, summarise
from tests.benchmarks.test_published import drawn, write_cifar10

FOUND = {PLAIN: [40.0, 42.0], "32 bits": [40.3, 41.5], "16 bits": [39.5, 41.3]}


def test_a_run_ends_in_an_accuracy_with_masks_and_without(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    size = replace(QUICK, rounds=1, local_steps=1, tested=100)
    train = drawn(np.repeat(np.arange(10), 20))
    plain, masked = (run_once(name, 0, size, tmp_path, train) for name in (PLAIN, "32 bits"))
    assert 0 <= masked <= 100
    assert masked == pytest.approx(plain, abs=5)


def test_means_are_compared_and_the_page_has_each_seed() -> None:
    made = summarise(FOUND, FULL, 120.0)
    assert [target.value for target in made.targets] == pytest.approx([0.1, 0.6])
    assert [target.met for target in made.targets][1] is False
    assert list(rows(made.series))[2] == ["16 bits", "39.50", "41.30", "40.40", "-0.60"]
    told = page(made, describe_machine())
    assert "| secagg.bits | seed 0 | seed 1 | mean | to no masks |" in told
    assert "0.5 points lower with 16 bits (missed)" in told
