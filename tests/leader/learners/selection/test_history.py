from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leader.config import CohortConfig
from leader.learners.selection.base import Candidate
from leader.learners.selection.history import PartReport, fold
from leader.learners.selection.policies import make_policy
from leader.state import History, PartHistory, RunState
from leader.storage.checkpoint import load_checkpoint, save_checkpoint


def test_a_report_counts_and_replaces_what_was_known() -> None:
    before = {"a": PartHistory(2, 3, 0.5, 7.0), "b": PartHistory(1, 1, 0.25, 8.0)}
    after = fold(before, 4, {"a": PartReport(0.4, 6.5)}, present={"a", "b"}, absent=0)
    assert after == {"a": PartHistory(3, 4, 0.4, 6.5), "b": PartHistory(1, 1, 0.25, 8.0)}
    assert before["a"] == PartHistory(2, 3, 0.5, 7.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 2.0**128, -(2.0**128), 1e308])
def test_a_loss_that_cannot_be_leaves_the_one_before(loss: float) -> None:
    before = {"a": PartHistory(2, 3, 0.5, 7.0)}
    after = fold(before, 4, {"a": PartReport(loss, 6.5), "b": PartReport(loss, 1.0)}, present={}, absent=0)
    assert after["a"] == PartHistory(3, 4, 0.5, 6.5)
    assert math.isnan(after["b"].loss)
    assert (after["b"].times, after["b"].last_round, after["b"].seconds) == (1, 4, 1.0)


def test_of_the_parts_that_are_away_the_newest_are_kept() -> None:
    before = {f"own-{i}": PartHistory(1, last, 0.5, 1.0) for i, last in enumerate((5, 1, 3, 5, 2))}
    reports = {"own-9": PartReport(0.5, 1.0)}
    after = fold(before, 6, reports, present={"own-1"}, absent=2)
    assert set(after) == {"own-0", "own-1", "own-3", "own-9"}
    assert set(fold(before, 6, {}, present={}, absent=3)) == {"own-0", "own-2", "own-3"}


def test_names_that_come_and_go_do_not_pile_up() -> None:
    history: History = {}
    for round_ in range(1, 500):
        name = f"own-{round_}"
        history = fold(history, round_, {name: PartReport(1.0, 1.0)}, present={name}, absent=10)
    assert len(history) <= 11


@pytest.mark.parametrize("policy", ["uniform", "by_examples", "round_robin", "power_of_choice", "oort"])
def test_a_resumed_run_draws_what_the_run_before_would_have_drawn(tmp_path: Path, policy: str) -> None:
    chooser = make_policy(CohortConfig.model_validate({"policy": policy}))
    parts = [Candidate(f"p{i}", 1 + i % 4) for i in range(20)]
    present = {candidate.part for candidate in parts}
    state = RunState("run", 0, 0, 1, np.zeros(1, np.float32), {})
    clock = np.random.Generator(np.random.PCG64(0))
    for round_ in range(1, 31):
        loaded = load_checkpoint(save_checkpoint(tmp_path, state, keep=1, config=""))
        assert repr(dict(loaded.history)) == repr(dict(sorted(state.history.items())))
        cohort = chooser.choose(parts, 5, state.history, seed=3, round_=round_)
        assert chooser.choose(parts, 5, loaded.history, seed=3, round_=round_) == cohort
        reports = {
            part: PartReport(math.nan if clock.random() < 0.1 else clock.exponential(), clock.exponential())
            for part in cohort
        }
        history = fold(state.history, round_, reports, present=present, absent=0)
        state = replace(state, round=round_, history=history)
    assert sum(past.times for past in state.history.values()) == 150
