from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import describe_machine
from benchmarks.outcome.masked_accuracy import (
    CONTROL,
    FULL,
    PLAIN,
    QUICK,
    page,
    rows,
    run_once,
    settings,
    summarise,
)
from leader.config import RunConfig
from tests.benchmarks.test_published import drawn, write_cifar10

FOUND = {PLAIN: [40.0, 42.0], CONTROL: [40.6, 42.2], "32 bits": [40.3, 41.5], "16 bits": [39.5, 41.3]}


def test_a_run_ends_in_an_accuracy_with_masks_and_without(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    size = replace(QUICK, rounds=1, local_steps=1, tested=100)
    train = drawn(np.repeat(np.arange(10), 20))
    plain, masked = (run_once(name, 0, size, tmp_path, train) for name in (PLAIN, "32 bits"))
    assert 0 <= masked <= 100
    assert masked == pytest.approx(plain, abs=5)


def test_the_control_is_the_plain_run_at_another_rate() -> None:
    plain, control = (settings(name, 1, QUICK, Path("data"), Path("run")) for name in (PLAIN, CONTROL))
    assert {key for key in plain if plain[key] != control[key]} == {"train"}
    rates = [RunConfig.model_validate(these).train.lr for these in (plain, control)]
    assert rates[0] != rates[1] == pytest.approx(rates[0], rel=3e-6)


def test_means_are_compared_and_the_page_has_each_seed() -> None:
    made = summarise(FOUND, FULL, 120.0)
    assert [target.value for target in made.targets] == pytest.approx([0.1, 0.6])
    assert [target.met for target in made.targets][1] is False
    assert list(rows(made.series))[1][1:] == ["40.60", "42.20", "41.40", "+0.40"]
    assert list(rows(made.series))[3] == ["16 bits", "39.50", "41.30", "40.40", "-0.60"]
    told = page(made, describe_machine())
    assert "| secagg.bits | seed 0 | seed 1 | mean | to no masks |" in told
    assert "0.5 points lower with 16 bits (missed)" in told
