from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

from leader.learners.selection.base import Candidate
from leader.learners.selection.policies import ByExamples

SIZES = {"a": 1, "b": 2, "c": 3, "d": 10, "e": 0}
PARTS = [Candidate(part, examples) for part, examples in SIZES.items()]
ROUNDS = 20_000


def chances(size: int) -> dict[str, float]:
    """The probability of each part to be among `size` drawn one after another in proportion to what is left."""
    found = dict.fromkeys(SIZES, 0.0)
    for order in permutations([part for part in SIZES if SIZES[part]], size):
        left, probability = sum(SIZES.values()), 1.0
        for part in order:
            probability *= SIZES[part] / left
            left -= SIZES[part]
        for part in order:
            found[part] += probability
    return found


def test_parts_are_drawn_as_often_as_theory_says() -> None:
    for size in (1, 2, 3):
        counts = Counter(
            part
            for round_ in range(ROUNDS)
            for part in ByExamples().choose(PARTS, size, {}, seed=7, round_=round_)
        )
        for part, chance in chances(size).items():
            # Four standard deviations of a binomial count.
            bound = 4 * math.sqrt(ROUNDS * chance * (1 - chance))
            assert abs(counts[part] - ROUNDS * chance) <= bound, (size, part)


def test_the_theory_is_that_of_drawing_without_replacement() -> None:
    assert chances(1) == {"a": 1 / 16, "b": 2 / 16, "c": 3 / 16, "d": 10 / 16, "e": 0}
    assert math.isclose(chances(2)["a"], 1 / 16 + 2 / 16 / 14 + 3 / 16 / 13 + 10 / 16 / 6)
    assert math.isclose(sum(chances(3).values()), 3)


def test_a_part_without_examples_is_drawn_when_nothing_else_is_left() -> None:
    for round_ in range(50):
        assert "e" not in ByExamples().choose(PARTS, 4, {}, seed=0, round_=round_)
    assert ByExamples().choose(PARTS, 5, {}, seed=0, round_=1) == ("a", "b", "c", "d", "e")
