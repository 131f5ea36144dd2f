"""Runs whose learners add the noise themselves, killed anywhere: the same bits, and the same ledger line for line."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, noise, succeed

ROUNDS = 9
SHARED: Settings = {
    **TINY,
    "learners": 4,
    "rounds": ROUNDS,
    "cohort.quorum": 0.75,
    "cohort.lease_s": 20,  # time for a learner to come back on a busy machine
    "limits.chunk_bytes": 1024,
    "aggregate.weighting": "uniform",
    "model.local": "norm.*",
    "secagg.mode": "masked",
    "dp.mode": "distributed",
    "dp.clip_quantile": 0.5,
}
#: Kills of the leader, one a round from the second on; the last is in a round in which a learner is killed too.
LEADER_KILLS = ("uploading", "pending", "charged", "revealed", "stepping", "uploading")
RETRAINED, SILENT = 7, 8  # rounds in which a learner is killed before its upload, and after it


def learner(cluster: Cluster, leader: Leader, name: str, states: Path, faults: str = "") -> Program:
    """A learner that keeps its vow and the key of its noise over restarts."""
    flags = ["--name", name, "--state-dir", str(states / name), "--log-level", "debug"]
    return cluster.learner(leader, *flags, *noise(name), faults=faults)


def lines(leader: Leader) -> list[dict[str, Any]]:
    """The ledger, with what stands for the (random) id of a session replaced by which one it is."""
    entries = [json.loads(line) for line in (leader.run_dir / "privacy.jsonl").read_text().splitlines()]
    ofs = [entry["of"] for entry in entries if entry["kind"] == "release"]
    assert len(set(ofs)) == len(ofs)
    return [
        {**entry, "of": ofs.index(entry["of"]) if "of" in entry else None, "prev": None} for entry in entries
    ]


def begun_twice(
    cluster: Cluster, settings: Settings, crew: str, learner: Callable[[Cluster, Leader, str, Path], Program]
) -> tuple[tuple[Leader, Path], tuple[Leader, Path]]:
    """A run after its first round, and its copy: leader's folder, and what the learners keep."""
    states = cluster.folder / "states"
    states.mkdir()
    leader = cluster.leader(settings, faults="kill@leader.selecting:2")
    started = [learner(cluster, leader, name, states) for name in crew]
    assert leader.wait() == -signal.SIGKILL
    for one in started:
        one.kill()
    copied = Path(copytree(states, cluster.folder / "other-states"))
    return (leader, states), (leader.copied(cluster.folder / "other"), copied)


def test_leader_and_learners_killed_at_every_point_end_in_the_bits_and_the_entries_of_an_undisturbed_run(
    cluster: Cluster,
) -> None:
    (calm, states), (leader, copied) = begun_twice(cluster, SHARED, "abcd", learner)
    resumed = cluster.resumed(calm)
    succeed(resumed, *[learner(cluster, calm, name, states) for name in "abcd"])

    crew = [learner(cluster, leader, name, copied) for name in "abc"]
    retrains = learner(cluster, leader, "d", copied, faults=f"kill@learner.trained:{RETRAINED}")
    for round_, point in enumerate(LEADER_KILLS, start=2):
        leader = cluster.resumed(leader, faults=f"kill@leader.{point}:{round_}")
        assert leader.wait() == -signal.SIGKILL
    assert retrains.wait() == -signal.SIGKILL
    leader = cluster.resumed(leader)
    silent = learner(cluster, leader, "d", copied, faults=f"kill@learner.uploaded:{SILENT}")
    assert silent.wait() == -signal.SIGKILL
    succeed(leader, learner(cluster, leader, "d", copied), *crew)

    assert_same_bits(leader.run_dir, calm.run_dir)
    assert lines(leader) == lines(calm)
    assert [entry["round"] for entry in lines(leader) if entry["kind"] == "release"] == [
        *range(1, ROUNDS + 1)
    ]
