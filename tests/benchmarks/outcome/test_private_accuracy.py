from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import describe_machine
from benchmarks.outcome.features_task import INPUTS, PARAMETERS, Linear, features_of
from benchmarks.outcome.private_accuracy import FULL, QUICK, Crowd, Outcome, page, rows, run_once, summarise
from tests.benchmarks.test_published import LABELS, write_cifar10
from utils.dp.gaussian import least_noise


def test_features_are_of_each_image_alone_and_the_classifier_has_so_many_parameters(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    train, test = (features_of(tmp_path, train=split) for split in (True, False))
    assert train.inputs.shape == (len(LABELS), INPUTS)
    assert train.inputs.dtype == np.float32
    first = np.flatnonzero(train.labels == test.labels[0])  # images of one label are the same here
    assert np.abs(train.inputs[first] - test.inputs[0]).max() < 1e-5
    assert sum(value.numel() for value in Linear().build_model(0).parameters()) == PARAMETERS


def test_a_run_spends_its_epsilon_and_a_smaller_one_has_more_noise(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    size = replace(QUICK, examples=1000)
    few = Crowd(5, 5, "distributed")
    plain, loose, tight = (run_once(few, epsilon, size, tmp_path) for epsilon in (0.0, 8.0, 2.0))
    assert (plain.spent, plain.noise) == (0.0, 0.0)
    assert 7.9 < loose.spent <= 8.0
    assert 1.9 < tight.spent <= 2.0
    assert loose.noise == pytest.approx(least_noise(8.0, 1e-5, 2) * math.sqrt(PARAMETERS) / 5)
    assert tight.noise > 2 * loose.noise
    rare = run_once(Crowd(10, 5, "central"), 8.0, size, tmp_path)
    assert rare.noise < loose.noise  # each is in one round of two


def test_the_page_has_a_row_for_each_crowd_and_a_column_for_each_epsilon() -> None:
    runs = [Outcome(20, 20, epsilon, 40.0 - epsilon, epsilon, epsilon, 60.0) for epsilon in (0.0, 8.0, 2.0)]
    made = summarise([*runs, Outcome(2000, 200, 0.0, 41.26, 0.0, 0.0, 60.0)], FULL)
    assert list(rows(made.series)) == [
        "| 20 | 20 | 40.0 | 32.0 (8) | 38.0 (2) |",
        "| 2,000 | 200 | 41.3 |",
    ]
    assert "| learners | a round | no noise | epsilon 8 | epsilon 2 |" in page(made, describe_machine())
