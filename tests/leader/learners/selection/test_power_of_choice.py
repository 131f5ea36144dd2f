from __future__ import annotations

import math
from collections import Counter

from leader.learners.selection.base import Candidate
from leader.learners.selection.policies import PowerOfChoice
from leader.state import PartHistory

PARTS = [Candidate(f"p{i}", 5) for i in range(6)]


def told(**losses: float) -> dict[str, PartHistory]:
    return {part: PartHistory(1, 1, loss, 1.0) for part, loss in losses.items()}


LOSSES = told(p0=0.1, p1=0.9, p2=0.5, p3=2.5, p4=0.3, p5=1.5)


def test_the_worst_of_all_are_taken_when_all_are_candidates() -> None:
    for round_ in range(1, 20):
        assert PowerOfChoice(6).choose(PARTS, 2, LOSSES, seed=0, round_=round_) == ("p3", "p5")
        assert PowerOfChoice(9).choose(PARTS, 3, LOSSES, seed=0, round_=round_) == ("p1", "p3", "p5")


def test_parts_that_never_told_a_loss_count_as_the_worst() -> None:
    history = told(p0=0.1, p1=math.nan, p2=0.5, p3=2.5, p5=1.5)
    assert PowerOfChoice(6).choose(PARTS, 2, history, seed=0, round_=4) == ("p1", "p4")
    assert PowerOfChoice(6).choose(PARTS, 3, history, seed=0, round_=4) == ("p1", "p3", "p4")


def test_the_worst_of_two_random_parts_is_taken_as_often_as_combinations_say() -> None:
    rounds = 6000
    counts = Counter(
        part
        for round_ in range(rounds)
        for part in PowerOfChoice().choose(PARTS, 1, LOSSES, seed=3, round_=round_)
    )
    # The k-th best of 6 is the worse of a pair in k - 1 of 15 pairs.
    for better, part in enumerate(("p0", "p4", "p2", "p1", "p5", "p3")):
        chance = better / 15
        bound = 4 * math.sqrt(rounds * chance * (1 - chance))
        assert abs(counts[part] - rounds * chance) <= bound, part


def test_candidates_are_drawn_by_their_examples() -> None:
    large = [*PARTS[:5], Candidate("p5", 1_000_000_000)]
    taken = Counter(
        part
        for round_ in range(200)
        for part in PowerOfChoice(2).choose(large, 1, told(p5=9.0), seed=0, round_=round_)
    )
    assert taken["p5"] == 0  # always a candidate, but the other one never told a loss
    known = {**LOSSES, **told(p5=9.0)}
    for round_ in range(50):
        assert PowerOfChoice(2).choose(large, 1, known, seed=0, round_=round_) == ("p5",)
