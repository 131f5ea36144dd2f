from __future__ import annotations

from collections import Counter

from leader.learners.selection.base import Candidate
from leader.learners.selection.policies import Uniform

PARTS = [Candidate(f"shard-{i:05d}", i + 1) for i in range(10)]


def test_all_parts_are_drawn_equally_often() -> None:
    counts = Counter(
        part for round_ in range(3000) for part in Uniform().choose(PARTS, 3, {}, seed=0, round_=round_)
    )
    # 900 expected, standard deviation about 25.
    assert set(counts) == {candidate.part for candidate in PARTS}
    assert all(800 < count < 1000 for count in counts.values())


def test_rounds_and_seeds_draw_differently() -> None:
    draws = {
        Uniform().choose(PARTS, 5, {}, seed=seed, round_=round_) for seed in (0, 1) for round_ in (1, 2, 3)
    }
    assert len(draws) == 6


def test_the_draw_is_the_same_on_every_machine() -> None:
    drawn = Uniform().choose(PARTS, 3, {}, seed=0, round_=1)
    assert drawn == ("shard-00004", "shard-00006", "shard-00009")
