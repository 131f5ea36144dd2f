from __future__ import annotations

import math
from collections import Counter

import pytest

from leader.learners.selection.base import Candidate
from leader.learners.selection.oort import Oort, exploration, utilities
from leader.state import PartHistory

PARTS = [Candidate(f"p{i}", 10) for i in range(10)]


def test_exploration_falls_by_the_factor_to_its_floor() -> None:
    assert [exploration(round_) for round_ in (1, 2, 3)] == pytest.approx([0.9, 0.882, 0.86436])
    # 0.9 x 0.98**n is below 0.2 from n = 75 on.
    assert exploration(75) == pytest.approx(0.9 * 0.98**74)
    assert exploration(76) == exploration(10_000_000) == 0.2


def test_utility_by_hand() -> None:
    candidates = [Candidate("a", 100), Candidate("b", 50), Candidate("c", 100)]
    history = {
        "a": PartHistory(1, 4, 2.0, 10.0),  # statistical 200, the largest: 1
        "b": PartHistory(1, 1, 1.0, 10.0),  # 50: 0.25
        "c": PartHistory(1, 2, 1.0, 10.0),  # 100: 0.5
    }
    log = math.log(5)
    expected = [1 + math.sqrt(0.1 * log / 4), 0.25 + math.sqrt(0.1 * log), 0.5 + math.sqrt(0.05 * log)]
    assert utilities(candidates, history, round_=5) == pytest.approx(expected)
    assert utilities(candidates, history, round_=1) == [1.0, 0.25, 0.5]


def test_the_slowest_fifth_loses_by_the_square_of_its_excess() -> None:
    history = {part.part: PartHistory(1, 1, 1.0, 10.0) for part in PARTS}
    history["p3"] = PartHistory(1, 1, 1.0, 20.0)
    history["p7"] = PartHistory(1, 1, 1.0, 100.0)
    found = utilities(PARTS, history, round_=1)
    assert found == [1, 1, 1, 0.25, 1, 1, 1, pytest.approx(0.01), 1, 1]


def test_one_outlier_does_not_set_the_scale() -> None:
    parts = [Candidate(f"p{i:02d}", 10) for i in range(20)]
    history = {part.part: PartHistory(1, 1, 1.0, 1.0) for part in parts}
    history["p05"] = PartHistory(1, 1, 1e30, 1.0)
    assert utilities(parts, history, round_=1) == [1.0] * 20


def test_losses_of_0_and_negative_losses_have_a_utility() -> None:
    history = {"p0": PartHistory(1, 1, 0.0, 1.0), "p1": PartHistory(1, 1, 0.0, 1.0)}
    assert utilities(PARTS[:2], history, round_=1) == [0.0, 0.0]
    history["p1"] = PartHistory(1, 1, -2.0, 1.0)
    assert utilities(PARTS[:2], history, round_=1) == [0.0, 1.0]


def test_the_useful_and_the_fast_are_preferred() -> None:
    history = {f"p{i}": PartHistory(5, 40, 0.1, 10.0) for i in range(10)}
    history["p2"] = PartHistory(5, 40, 3.0, 10.0)
    history["p4"] = PartHistory(5, 40, 2.9, 10.0)
    history["p6"] = PartHistory(5, 40, 3.0, 40.0)  # as useful, four times as slow
    for round_ in range(41, 91):
        assert Oort().choose(PARTS, 2, history, seed=0, round_=round_) == ("p2", "p4")


def test_among_parts_near_the_highest_utility_chance_decides() -> None:
    history = {f"p{i}": PartHistory(1, 1, 1.0, 10.0) for i in range(10)}
    rounds = 3000
    counts = Counter(
        part
        for round_ in range(1, rounds + 1)
        for part in Oort().choose(PARTS, 3, history, seed=2, round_=round_)
    )
    bound = 4 * math.sqrt(rounds * 0.3 * 0.7)
    assert all(abs(counts[part.part] - 0.3 * rounds) <= bound for part in PARTS)


def test_what_is_out_of_date_is_drawn_again() -> None:
    history = {f"p{i}": PartHistory(1, 1000, 1.0, 10.0) for i in range(10)}
    history["p8"] = PartHistory(1, 1, 0.9, 10.0)  # 0.9 + sqrt(0.1 ln 1001) = 1.73 against 1.03
    assert Oort().choose(PARTS, 1, history, seed=0, round_=1001) == ("p8",)


def test_parts_never_seen_get_their_share_of_the_rounds() -> None:
    history = {f"p{i}": PartHistory(1, 1, 1.0, 10.0) for i in range(5)}
    rounds = 4000
    new = Counter(
        sum(part in ("p5", "p6", "p7", "p8", "p9") for part in cohort)
        for cohort in (
            Oort().choose(PARTS, 4, history, seed=5, round_=round_) for round_ in range(100, 100 + rounds)
        )
    )
    # 0.2 x 4 = 0.8 of a part a round: one part in four rounds of five, none in the fifth.
    assert set(new) == {0, 1}
    assert abs(new[1] - 0.8 * rounds) <= 4 * math.sqrt(rounds * 0.8 * 0.2)


def test_the_first_round_has_nothing_else_to_draw() -> None:
    drawn = Counter(part for seed in range(2000) for part in Oort().choose(PARTS, 4, {}, seed=seed, round_=1))
    bound = 4 * math.sqrt(2000 * 0.4 * 0.6)
    assert all(abs(drawn[part.part] - 800) <= bound for part in PARTS)


def test_a_part_that_told_no_loss_counts_as_never_seen() -> None:
    told = {f"p{i}": PartHistory(1, 1, 1.0, 10.0) for i in range(9)}
    silent = {**told, "p9": PartHistory(7, 9, math.nan, 10.0)}
    for round_ in range(1, 30):
        assert Oort().choose(PARTS, 3, silent, seed=0, round_=round_) == Oort().choose(
            PARTS, 3, told, seed=0, round_=round_
        )
