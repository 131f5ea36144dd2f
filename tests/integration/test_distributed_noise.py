"""Runs whose learners add the noise themselves, killed anywhere: the same bits, and the same ledger line for line."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, noise, succeed
from utils.dp.gaussian import epsilon_of

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

#: Groups of three of whom one may be lost, two at work at a time.
GROUPS: Settings = {
    **SHARED,
    "learners": 6,
    "rounds": 7,
    "dp.clip_quantile": 0,
    "secagg.least": 2,
    "secagg.threshold": 0.5,
    "buffer.size": 6,
    "buffer.group": 3,
}


def learner(
    cluster: Cluster, leader: Leader, name: str, states: Path, faults: str = "", least: int = 3
) -> Program:
    """A learner that keeps its vow and the key of its noise over restarts; its identity brings it back at once."""
    flags = ["--state-dir", str(states / name), "--log-level", "debug", "--least-learners", str(least)]
    return cluster.join(leader, name, *noise(name), *flags, faults=faults)


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
    leader = cluster.leader(settings, faults="kill@leader.selecting:2", secure=True)
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
    *before, last = [f"kill@leader.{point}:{n}" for n, point in enumerate(LEADER_KILLS, start=2)]
    leader = cluster.resumed(leader, faults=before[0])
    *_, leader = cluster.resumed_each_time(leader, (*before[1:], last))
    assert retrains.wait() == -signal.SIGKILL
    silent = learner(cluster, leader, "d", copied, faults=f"kill@learner.uploaded:{SILENT}")
    assert leader.wait() == -signal.SIGKILL
    leader = cluster.resumed(leader)
    assert silent.wait() == -signal.SIGKILL
    succeed(leader, learner(cluster, leader, "d", copied), *crew)

    assert_same_bits(leader.run_dir, calm.run_dir)
    assert lines(leader) == lines(calm)
    assert [entry["round"] for entry in lines(leader) if entry["kind"] == "release"] == [
        *range(1, ROUNDS + 1)
    ]


def counted(leader: Leader) -> tuple[dict[tuple[int, int], list[str]], dict[tuple[int, int], list[str]]]:
    """The parts of each group that was given work, and of those that counted the parts in the sum, as they counted."""
    given: dict[tuple[str, int], tuple[int, int]] = {}
    in_sum = defaultdict(list)
    members = defaultdict(list)
    for line in map(json.loads, (leader.run_dir / "buffers.jsonl").read_text().splitlines()):
        order = line.get("part", ""), line.get("turn", 0)
        if line["what"] == "given":
            given[order] = line["round"], line["group"]
            members[given[order]].append(line["part"])
        elif line["what"] == "counted":
            in_sum[given[order]].append(line["part"])
    return members, in_sum


def test_groups_at_work_at_once_whose_leader_and_learners_are_killed_are_charged_and_count_once_each(
    cluster: Cluster,
) -> None:
    """Who meets whom depends on time; whoever it is, each update is in one sum, and each sum is paid once."""
    states = cluster.folder / "states"
    states.mkdir()
    faults = [f"kill@leader.{point}:{n}" for n, point in enumerate(("pending", "charged", "unmasked"), 3)]
    leader = cluster.leader(GROUPS, faults=faults[0], secure=True)
    crew = [learner(cluster, leader, name, states, least=2) for name in "abdf"]
    points = {"e": "training", "c": "uploaded"}  # of the first two groups
    killed = [learner(cluster, leader, name, states, f"kill@learner.{points[name]}", 2) for name in points]
    for name, one in zip(points, killed, strict=True):
        assert one.wait() == -signal.SIGKILL
        crew.append(learner(cluster, leader, name, states, least=2))
    for fault in (*faults[1:], ""):
        assert leader.wait() == -signal.SIGKILL
        members, in_sum = counted(leader)
        assert len(members.keys() - in_sum.keys()) >= 2  # groups at work
        leader = cluster.resumed(leader, faults=fault)
    succeed(leader, *crew)

    _, in_sum = counted(leader)
    entries = [json.loads(line) for line in (leader.run_dir / "privacy.jsonl").read_text().splitlines()]
    sets = {entry["set"]: entry["parts"] for entry in entries if entry["kind"] == "parts"}
    releases = [entry for entry in entries if entry["kind"] == "release"]
    assert sorted((one["round"], sets[one["set"]]) for one in releases) == sorted(
        (group[0], sorted(parts)) for group, parts in in_sum.items()
    )
    revealed = Counter(
        digest
        for vows in states.glob("*/vows.json")
        for works in json.loads(vows.read_text()).values()
        for digest in works.values()
        if len(works) == 1  # else an update was revealed in a sum that did not count
    )
    assert revealed.keys() == {one["of"] for one in releases}
    assert all(2 <= revealed[one["of"]] <= len(sets[one["set"]]) for one in releases)
    assert sum(line["examples"] for line in leader.metrics) == 24 * sum(map(len, in_sum.values()))
    assert not list(leader.run_dir.glob("pending-sum-*"))
    spent: defaultdict[str, float] = defaultdict(float)
    for one in releases:
        for part in sets[one["set"]]:
            spent[part] += one["z"] ** -2
    privacy = leader.summary["privacy"]
    assert privacy["spent_max"] == epsilon_of(math.sqrt(max(spent.values())), privacy["delta"]) <= 8
