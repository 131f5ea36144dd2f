from __future__ import annotations

from collections import Counter

from leader.learners.selection.base import Candidate
from leader.learners.selection.history import PartReport, fold
from leader.learners.selection.policies import RoundRobin
from leader.state import History, PartHistory

PARTS = [Candidate(f"p{i}", 5) for i in range(7)]
NAMES = {candidate.part for candidate in PARTS}


def test_after_every_round_counts_differ_by_at_most_1() -> None:
    history: History = {}
    counts = Counter(dict.fromkeys(NAMES, 0))
    for round_ in range(1, 101):
        cohort = RoundRobin().choose(PARTS, 3, history, seed=1, round_=round_)
        counts.update(cohort)
        reports = {part: PartReport(1.0, 1.0) for part in cohort}
        history = fold(history, round_, reports, present=NAMES, absent=0)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == 300


def test_the_fewest_times_go_first_and_parts_never_seen_before_all() -> None:
    times = {"p0": 3, "p1": 2, "p2": 1, "p3": 1, "p4": 5, "p5": 4}
    history = {part: PartHistory(count, 9, 0.5, 1.0) for part, count in times.items()}
    assert RoundRobin().choose(PARTS, 3, history, seed=0, round_=10) == ("p2", "p3", "p6")
    assert RoundRobin().choose(PARTS, 4, history, seed=0, round_=10) == ("p1", "p2", "p3", "p6")


def test_among_equals_the_draw_decides() -> None:
    firsts = {RoundRobin().choose(PARTS, 1, {}, seed=0, round_=round_) for round_ in range(100)}
    assert firsts == {(part,) for part in NAMES}
