from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.data.partition import Kind, partition
from utils.errors import ConfigError

KINDS: tuple[Kind, ...] = ("iid", "dirichlet", "classes", "quantity")  # those that draw
ALPHAS = (5e-324, 1e-3, 0.1, 0.5, 1.0, 100.0, 1e308)


def balanced(examples: int, classes: int = 10) -> NDArray[np.int64]:
    return np.arange(examples, dtype=np.int64) % classes


def split(
    labels: NDArray[np.int64], parts: int, kind: Kind, alpha: float = 0.5, seed: int = 0, each: int = 2
) -> tuple[NDArray[np.int64], ...]:
    return partition(labels, parts, kind=kind, alpha=alpha, seed=seed, classes_per_shard=each)


def assert_is_partition(parts: tuple[NDArray[np.int64], ...], count: int, examples: int) -> None:
    assert len(parts) == count
    assert sorted(np.concatenate(parts).tolist()) == list(range(examples))
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) >= 1
        assert (np.diff(part) > 0).all()


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    alpha=st.sampled_from(ALPHAS),
    seed=st.integers(0, 2**62),
)
def test_every_example_is_in_one_part_and_no_part_is_empty(
    labels: list[int], share: float, kind: Kind, alpha: float, seed: int
) -> None:
    parts = 1 + round(share * (len(labels) - 1))
    each = max(1, min(3, len(labels) // parts))
    drawn = split(np.array(labels, np.int64), parts, kind, alpha, seed, each)
    assert_is_partition(drawn, parts, len(labels))
    if kind == "iid":
        assert max(map(len, drawn)) - min(map(len, drawn)) <= 1


@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=80), data=st.data())
def test_a_group_is_never_split(groups: list[int], data: st.DataObject) -> None:
    present = len(set(groups))
    parts = data.draw(st.integers(0, present))
    array = np.array(groups, np.int64)
    labels = np.zeros(len(groups), np.int64)
    drawn = partition(labels, parts, kind="groups", alpha=0.5, seed=0, groups=array)
    assert_is_partition(drawn, parts or present, len(groups))
    held = [set(array[part].tolist()) for part in drawn]
    assert sum(map(len, held)) == present


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_parts(kind: Kind) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [part.tolist() for part in split(balanced(200), 7, kind, seed=seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iid", "0485eb399c46b897"),
        ("dirichlet", "a6168379d5b463e9"),
        ("classes", "78a2a29d7f904626"),
        ("quantity", "7a7aa647046eeef2"),
    ],
)
def test_the_bits_are_those_of_numpy_1_26_and_2_4(kind: Kind, expected: str) -> None:
    owners = np.empty(3_000, "<i8")
    for number, part in enumerate(split(balanced(3_000), 40, kind, alpha=0.3, seed=5)):
        owners[part] = number
    assert hashlib.sha256(owners.tobytes()).hexdigest()[:16] == expected


def most_common_share(alpha: float) -> float:
    """Mean share of a part's most common class."""
    labels = balanced(20_000)
    parts = split(labels, 20, "dirichlet", alpha)
    return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))


def test_a_smaller_alpha_skews_labels_more() -> None:
    assert most_common_share(0.05) > 0.6
    assert 0.2 < most_common_share(0.5) < 0.6
    assert most_common_share(1_000.0) < 0.13


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_class_shares_have_the_variance_of_the_dirichlet_distribution(alpha: float) -> None:
    labels, parts = balanced(400_000, 400), 10
    drawn = split(labels, parts, "dirichlet", alpha)
    shares = np.stack([np.bincount(labels[part], minlength=400) for part in drawn])
    mean = 1 / parts
    expected = mean * (1 - mean) / (parts * alpha + 1)
    assert (shares / 1_000).var() == pytest.approx(expected, rel=0.1)


def test_shares_of_two_parts_at_alpha_one_are_uniform() -> None:
    labels = balanced(1_000_000, 1_000)
    share = np.bincount(labels[split(labels, 2, "dirichlet", 1.0)[0]], minlength=1_000) / 1_000
    tenths = np.histogram(share, bins=10, range=(0, 1.0001))[0]
    assert np.square(tenths - 100).sum() / 100 < 27.9  # chi-square with 9 degrees, p = 0.001


def test_positions_in_the_data_do_not_decide_the_part() -> None:
    labels = balanced(50_000, 1)
    middles = [part.mean() for part in split(labels, 5, "dirichlet", 100.0)]
    assert max(abs(middle - 25_000) for middle in middles) < 1_000


def test_as_many_parts_as_examples_get_one_each() -> None:
    for kind in ("iid", "dirichlet", "quantity"):
        assert [len(part) for part in split(balanced(30), 30, kind, 0.1, 3)] == [1] * 30


def test_an_empty_part_gets_an_example_of_the_largest() -> None:
    labels = balanced(1_000, 2)
    sizes = sorted(len(part) for part in split(labels, 10, "dirichlet", 1e-9))
    assert sizes == [1, 1, 1, 1, 1, 1, 1, 1, 496, 496]


def test_classes_gives_each_part_few_classes_of_equal_pieces() -> None:
    labels = np.random.default_rng(0).permutation(balanced(60_000))
    parts = split(labels, 100, "classes")
    held = [np.bincount(labels[part], minlength=10) for part in parts]
    assert {len(part) for part in parts} == {600}
    assert {tuple(sorted(row[row > 0].tolist())) for row in held} == {(300, 300), (600,)}
    ten = np.flatnonzero(labels == 0)[:10]
    assert len({number for number, part in enumerate(parts) for i in ten if i in part}) > 3


def test_quantity_skews_sizes_and_not_labels() -> None:
    labels = balanced(200_000)
    sizes = np.array([len(part) for part in split(labels, 2_000, "quantity", 0.5)])
    assert sizes.var() == pytest.approx(100**2 / 0.5, rel=0.15)  # of a gamma variate with this mean
    largest = max(split(labels, 20, "quantity", 0.5), key=len)
    assert np.abs(np.bincount(labels[largest]) / len(largest) - 0.1).max() < 0.01


def test_groups_are_parts_in_their_order_when_there_are_as_many() -> None:
    groups = np.array([7, 2, 7, 5, 2, 7], np.int64)
    for parts in (0, 3):
        drawn = partition(balanced(6), parts, kind="groups", alpha=0.5, seed=0, groups=groups)
        assert [part.tolist() for part in drawn] == [[1, 4], [3], [0, 2, 5]]


def test_fewer_parts_get_the_largest_groups_first_each_to_the_smallest_part() -> None:
    groups = np.repeat(np.arange(5), [2, 7, 5, 4, 3])
    drawn = partition(balanced(21), 2, kind="groups", alpha=0.5, seed=0, groups=groups)
    assert [sorted(set(groups[part].tolist())) for part in drawn] == [[1, 4], [0, 2, 3]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [0, 6])
def test_more_parts_than_examples_are_refused(kind: Kind, parts: int) -> None:
    with pytest.raises(ConfigError, match=f"5 examples can't be split into {parts} parts"):
        split(balanced(5), parts, kind)


def test_more_pieces_than_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"5 examples can't be cut into 3 x 2 pieces; .*classes_per_shard"):
        split(balanced(5), 3, "classes")


def test_more_parts_than_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 groups can't fill 3 parts, .* use at most 2"):
        partition(balanced(4), 3, kind="groups", alpha=0.5, seed=0, groups=balanced(4, 2))


def test_data_without_groups_is_told_what_a_grouped_folder_looks_like() -> None:
    with pytest.raises(ConfigError, match=r"has no groups .* GROUP/CLASS/IMAGE\.png"):
        split(balanced(4), 2, "groups")


def test_every_kind_is_tested() -> None:
    assert {*KINDS, "groups"} == set(get_args(Kind))
