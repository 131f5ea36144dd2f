"""Learners that hide their examples, killed anywhere: the same bits and the same ledgers as in an undisturbed run."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, succeed
from tests.integration.test_distributed_noise import begun_twice

TASK = "tests.integration.noise_task:NormlessNoise"
EXAMPLES: Settings = {
    **TINY,
    "model.task": TASK,
    "rounds": 6,
    "dp.mode": "examples",
    "train.batch_size": 6,
    "cohort.lease_s": 4,
}
#: Of the learner, in rounds from the second on; the update that it had made is made again.
POINTS = ("training", "trained", "uploading", "uploaded")


def learner(cluster: Cluster, leader: Leader, name: str, states: Path, faults: str = "") -> Program:
    flags = ["--task", TASK, "--data", f"noise-{name}", "--state-dir", str(states / name)]
    return cluster.join(leader, name, *flags, faults=faults)


def test_learners_and_leader_killed_at_every_point_end_in_the_bits_and_the_ledgers_of_an_undisturbed_run(
    cluster: Cluster,
) -> None:
    (begun, states), (other, copied) = begun_twice(cluster, EXAMPLES, "ab", learner)
    succeed(cluster.resumed(begun), *[learner(cluster, begun, name, states) for name in "ab"])

    leader = cluster.resumed(other, faults="kill@leader.stepping:6")
    calm = learner(cluster, other, "b", copied)
    for round_, point in enumerate(POINTS, start=2):
        killed = learner(cluster, other, "a", copied, faults=f"kill@learner.{point}:{round_}")
        assert killed.wait() == -signal.SIGKILL
    last = learner(cluster, other, "a", copied)
    assert leader.wait() == -signal.SIGKILL
    succeed(cluster.resumed(other), last, calm)

    assert_same_bits(other.run_dir, begun.run_dir)
    for name in "ab":
        ledgers = [(folder / name / "privacy.jsonl").read_bytes() for folder in (states, copied)]
        assert ledgers[0] == ledgers[1]
        assert ledgers[0].count(b"\n") == 6
