"""A leader that is killed anywhere is resumed to the bits of one that never was, and trains nothing twice."""

from __future__ import annotations

import resource
import signal
from collections import Counter
from pathlib import Path

from leader.storage.checkpoint import load_checkpoint
from tests.integration.harness import LINE, Cluster, Leader, Program, Settings, assert_same_bits, succeed
from tests.tools.ports import free_port
from utils.faults import LEADER_POINTS

ROUNDS = list(range(1, 8))
#: Where the leader has all updates of a round and has not committed it.
WITH_ALL_UPDATES = ("leader.collected", "leader.stepping", "leader.checkpointing")


def start_crew(cluster: Cluster, leader: Leader) -> list[Program]:
    """Learners a and b, whose logs tell of each update that they make."""
    return [cluster.learner(leader, "--name", name, "--log-level", "debug") for name in "ab"]


def rounds_told(leader: Leader) -> list[int]:
    """The rounds in metrics.jsonl."""
    return [line["round"] for line in leader.metrics]


def checkpoint(leader: Leader, round_: int) -> Path:
    """Where the state after `round_` is kept."""
    return leader.run_dir / "checkpoints" / f"round-{round_:08d}.safetensors"


def test_a_leader_killed_at_every_point_loses_nothing(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    kills = dict(zip(reversed(LEADER_POINTS), ROUNDS, strict=True))  # one in each round
    faults = [f"kill@{point}:{round_}" for point, round_ in kills.items()]
    leader = cluster.leader(tiny, faults=faults[0])
    crew = start_crew(cluster, leader)
    resumed = cluster.resumed_each_time(leader, [*faults[1:], ""])
    for (point, round_), leader in zip(kills.items(), resumed, strict=True):
        kept = round_ if point == "leader.committed" else round_ - 1
        assert leader.started["resumed_round"] == kept
    succeed(leader, *crew)
    assert rounds_told(leader) == ROUNDS
    for learner in crew:
        made = Counter(event["work_id"] for event in learner.events("UpdateMade"))
        assert list(made.values()) == [1] * len(ROUNDS)
        for point in WITH_ALL_UPDATES:
            assert f"round {kills[point]}: sending the update again that was made before" in learner.output
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny, faults="kill@leader.selecting:4")
    crew = start_crew(cluster, leader)
    assert leader.wait() == -signal.SIGKILL
    newest = checkpoint(leader, 3)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    resumed = cluster.resumed(leader, "--set", "keep_checkpoints=2")
    assert resumed.started["resumed_round"] == 2
    succeed(resumed, *crew)
    [warning] = [entry["message"] for entry in resumed.events("log") if entry["level"] == "warning"]
    assert warning == (f"checkpoint {newest.name} is damaged: its SHA-256 differs; trying the one before")
    kept = sorted((leader.run_dir / "checkpoints").iterdir())
    assert kept == [checkpoint(leader, round_) for round_ in (6, 7)]
    assert rounds_told(resumed) == ROUNDS
    assert_same_bits(resumed.run_dir, undisturbed.run_dir)


def test_a_full_disk_ends_the_run_with_the_last_round_kept(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny, faults="stop@leader.collected:3")
    crew = start_crew(cluster, leader)
    leader.frozen()
    resource.prlimit(leader.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # less than a checkpoint
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 4
    assert [line["message"] for line in leader.events(LINE)] == [
        f"error: can't write {checkpoint(leader, 3)}: File too large; free the disk or fix the folder, "
        "then resume the run",
        f"resume with: python -m leader --resume {leader.run_dir}",
    ]
    succeed(*crew)
    assert "Traceback" not in leader.output
    kept = sorted((leader.run_dir / "checkpoints").iterdir())
    assert kept == [checkpoint(leader, round_) for round_ in (0, 1, 2)]
    assert load_checkpoint(kept[-1]).round == 2

    resumed = cluster.resumed(leader, "--set", "cohort.lease_s=8")  # it keeps names for 2 s
    succeed(resumed, *start_crew(cluster, resumed))
    assert_same_bits(resumed.run_dir, undisturbed.run_dir)


def test_a_leader_that_lost_its_learners_waits_for_others_and_then_says_why_it_stops(
    cluster: Cluster, tiny: Settings
) -> None:
    leader = cluster.leader({**tiny, "cohort.lease_s": 3})
    for name in "ab":
        cluster.learner(leader, "--name", name, faults="kill@learner.training:3")
    leader.event("RoundAbandoned", round=3, reason="no learner is left")
    leader.event("WaitingForLearners", have=0, need=2)
    leader.kill()
    resumed = cluster.resumed(leader, "--set", "cohort.wait_s=1", "--set", "cohort.lease_s=1")
    assert resumed.wait() == 6
    assert [line["message"] for line in resumed.events(LINE)] == [
        "error: too few learners for 1 s (cohort.wait_s) after round 2; start learners, then resume the run",
        f"resume with: python -m leader --resume {leader.run_dir}",
    ]


def test_learners_and_edges_that_lost_their_leader_wait_for_it_and_then_say_why_they_stop(
    cluster: Cluster, tiny: Settings
) -> None:
    """As where the run has ended while they were cut off: nobody can tell them that."""
    at = f"127.0.0.1:{free_port()}"
    leader = cluster.leader({**tiny, "edges.listen": at}, faults="kill@leader.collected:2")
    assert leader.address
    given = ["leader.edge", "--leader", at, "--name", "west", "--reconnect-timeout-s", "1"]
    edge = cluster.program("edge", [*given, "--log-format", "json"])
    leader.event("EdgeServes", name="west")
    crew = [cluster.learner(leader, "--name", name, "--reconnect-timeout-s", "1") for name in "ab"]
    for program, kind, address in ((edge, "edge", at), *((one, "learner", leader.address) for one in crew)):
        assert program.wait() == 5
        [said] = [line["message"] for line in program.events(LINE)]
        assert said.startswith(f"error: leader {address} did not take this {kind} for 1 s: ")
        assert said.endswith("; unless the run is over, start its leader again with --resume")
        assert "Traceback" not in program.output
