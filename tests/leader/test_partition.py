from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.partition import partition
from utils.errors import ConfigError

KINDS: list[Literal["iid", "dirichlet"]] = ["iid", "dirichlet"]


def balanced(examples: int, classes: int = 10) -> NDArray[np.int64]:
    return np.arange(examples, dtype=np.int64) % classes


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    alpha=st.sampled_from([1e-3, 0.1, 0.5, 1.0, 100.0]),
    seed=st.integers(0, 2**62),
)
def test_every_example_is_in_one_part_and_no_part_is_empty(
    labels: list[int], share: float, kind: Literal["iid", "dirichlet"], alpha: float, seed: int
) -> None:
    parts = 1 + round(share * (len(labels) - 1))
    split = partition(np.array(labels, np.int64), parts, kind=kind, alpha=alpha, seed=seed)
    assert len(split) == parts
    assert sorted(np.concatenate(split).tolist()) == list(range(len(labels)))
    for part in split:
        assert part.dtype == np.int64
        assert len(part) >= 1
        assert (np.diff(part) > 0).all()
    if kind == "iid":
        assert max(map(len, split)) - min(map(len, split)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_parts(kind: Literal["iid", "dirichlet"]) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [part.tolist() for part in partition(balanced(200), 7, kind=kind, alpha=0.5, seed=seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def most_common_share(alpha: float) -> float:
    """Mean share of a part's most common class."""
    labels = balanced(20_000)
    parts = partition(labels, 20, kind="dirichlet", alpha=alpha, seed=0)
    return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))


def test_a_smaller_alpha_skews_labels_more() -> None:
    assert most_common_share(0.05) > 0.6
    assert 0.2 < most_common_share(0.5) < 0.6
    assert most_common_share(1_000.0) < 0.13


def test_class_shares_have_the_variance_of_the_dirichlet_distribution() -> None:
    labels, parts, alpha = balanced(100_000, 100), 10, 0.5
    split = partition(labels, parts, kind="dirichlet", alpha=alpha, seed=0)
    shares = np.stack([np.bincount(labels[part], minlength=100) for part in split]) / 1_000
    mean = 1 / parts
    assert shares.var() == pytest.approx(mean * (1 - mean) / (parts * alpha + 1), rel=0.15)


def test_as_many_parts_as_examples_get_one_each() -> None:
    split = partition(balanced(30), 30, kind="dirichlet", alpha=0.1, seed=3)
    assert [len(part) for part in split] == [1] * 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [0, 6])
def test_more_parts_than_examples_are_refused(kind: Literal["iid", "dirichlet"], parts: int) -> None:
    with pytest.raises(ConfigError, match=f"5 examples can't be split into {parts} parts"):
        partition(balanced(5), parts, kind=kind, alpha=0.5, seed=0)
