from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from leader.cohort import choose_cohort

PARTS = tuple(f"shard-{i:05d}" for i in range(10))


@given(
    parts=st.sets(st.sampled_from(PARTS)),
    size=st.integers(0, 12),
    seed=st.integers(0, 2**63 - 1),
    round_=st.integers(1, 100),
    random=st.randoms(use_true_random=False),
)
def test_a_cohort_is_so_many_different_parts_in_order_however_they_are_listed(
    parts: set[str], size: int, seed: int, round_: int, random: Random
) -> None:
    cohort = choose_cohort(sorted(parts), size, seed=seed, round_=round_)
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= parts
    assert len(cohort) == (min(size, len(parts)) if size else len(parts))
    shuffled = sorted(parts)
    random.shuffle(shuffled)
    assert choose_cohort(shuffled, size, seed=seed, round_=round_) == cohort


def test_all_parts_are_drawn_equally_often() -> None:
    counts = Counter(
        part for round_ in range(3000) for part in choose_cohort(PARTS, 3, seed=0, round_=round_)
    )
    # 900 expected, standard deviation about 25.
    assert set(counts) == set(PARTS)
    assert all(800 < count < 1000 for count in counts.values())


def test_rounds_and_seeds_draw_differently() -> None:
    draws = {choose_cohort(PARTS, 5, seed=seed, round_=round_) for seed in (0, 1) for round_ in (1, 2, 3)}
    assert len(draws) == 6


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert choose_cohort(PARTS, 3, seed=0, round_=1) == ("shard-00004", "shard-00006", "shard-00009")
