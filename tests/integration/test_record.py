"""The record over crashes: whenever the leader is killed, each round is there once, with all who were in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import TINY
from tests.integration.harness import cluster_in, noise, succeed

ROUNDS = 6
SETTINGS = {**TINY, "rounds": ROUNDS}


def rows(run_dir: Path, asked: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(run_dir / "metadata.sqlite")) as database:
        return database.execute(asked).fetchall()


def assert_whole(run_dir: Path) -> None:
    """Check that each round is there once, and both learners in it, with what an undisturbed run counts."""
    assert rows(run_dir, "SELECT round FROM rounds ORDER BY round") == [(n,) for n in range(1, ROUNDS + 1)]
    asked = "SELECT round, learner, updates, examples, outcome FROM participation ORDER BY round, learner"
    assert rows(run_dir, asked) == [
        (n, name, 1, 24, "counted") for n in range(1, ROUNDS + 1) for name in ("a", "b")
    ]
    unnumbered = "SELECT count(*) FROM participation WHERE seq IS NULL OR committed_at IS NULL"
    assert rows(run_dir, unnumbered) == [(0,)]


@pytest.mark.timeout(300)
def test_a_leader_that_is_killed_at_any_point_of_a_round_leaves_a_record_that_becomes_whole(
    tmp_path: Path,
) -> None:
    points = ["committed:1", "collected:2", "checkpointing:3", "selecting:4", "committed:5"]
    with cluster_in(tmp_path) as cluster:
        faults = [f"kill@leader.{point}" for point in points]
        leader = cluster.leader(SETTINGS, faults=faults[0])
        crew = [cluster.learner(leader, "--name", name, *noise(name)) for name in "ab"]
        *_, leader = cluster.resumed_each_time(leader, (*faults[1:], ""))
        succeed(leader, *crew)
    assert_whole(leader.run_dir)
