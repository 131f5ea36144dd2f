from __future__ import annotations

import numpy as np
import pytest

from leader.data.partition import Draws


def test_permutation_holds_every_number_once_and_moves_them() -> None:
    drawn = Draws(0).permutation(1_000)
    assert sorted(drawn.tolist()) == list(range(1_000))
    assert (drawn == np.arange(1_000)).sum() < 10


def test_below_keeps_each_bound_and_reaches_all_below_it() -> None:
    bounds = np.repeat(np.array([1, 3, 10], np.int64), 1_000)
    drawn = Draws(1).below(bounds, 3_000).reshape(3, 1_000)
    assert [sorted(set(row.tolist())) for row in drawn] == [[0], [0, 1, 2], list(range(10))]


def test_an_urn_with_an_endless_alpha_is_uniform_and_with_a_tiny_one_is_one_part() -> None:
    sizes = np.array([4_000, 4_000])
    even = np.bincount(Draws(2).urns(sizes, 4, 1e308))
    assert np.abs(even - 2_000).max() < 200
    for run in Draws(2).urns(sizes, 4, 5e-324).reshape(2, -1):
        assert len(set(run.tolist())) == 1


def test_urns_are_independent_of_each_other() -> None:
    firsts = Draws(3).urns(np.full(1_000, 50), 2, 0.01).reshape(1_000, 50)[:, 0]
    assert firsts.mean() == pytest.approx(0.5, abs=0.06)


def test_no_examples_need_no_urn() -> None:
    assert Draws(4).urns(np.array([0]), 3, 1.0).tolist() == []
