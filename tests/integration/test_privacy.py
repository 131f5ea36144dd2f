"""Private runs in real processes: a leader that is killed between charge and release has charged once."""

from __future__ import annotations

import json
import signal
from collections import Counter

from tests.clusters import TINY
from tests.integration.harness import LINE, Cluster, Leader, Settings, assert_same_bits, noise, succeed

PRIVATE: Settings = {
    **TINY,
    "rounds": 6,
    "dp.mode": "central",
    "dp.clip_quantile": 0.5,
    "aggregate.weighting": "uniform",
    "model.local": "norm.*",
}
#: One in each round, from the first on.
POINTS = (
    *("leader.stepping", "leader.charged", "leader.committed", "leader.collected", "leader.checkpointing"),
    "leader.charged",  # the last that the budget pays
)


def test_a_leader_killed_at_every_point_ends_in_the_bits_and_the_entries_of_one_that_was_not(
    cluster: Cluster,
) -> None:
    begun = cluster.leader(PRIVATE, faults="kill@leader.selecting:1", secure=True)
    for name in "ab":
        cluster.join(begun, name, *noise(name))
    assert begun.wait() == -signal.SIGKILL
    leader = begun.copied(cluster.folder / "other")

    cluster.resumed(begun).succeed()  # with the learners that wait for it
    crew = [cluster.join(begun, name, *noise(name)) for name in "ab"]
    for round_, point in enumerate(POINTS, start=1):
        leader = cluster.resumed(leader, faults=f"kill@{point}:{round_}")
        assert leader.wait() == -signal.SIGKILL
    leader = cluster.resumed(leader)
    succeed(leader, *crew)

    assert_same_bits(leader.run_dir, begun.run_dir)
    ledgers = [(run.run_dir / "privacy.jsonl").read_bytes() for run in (begun, leader)]
    assert ledgers[0] == ledgers[1]
    entries = [json.loads(line) for line in ledgers[0].splitlines()]
    assert Counter(entry["kind"] for entry in entries) == {"open": 1, "parts": 1, "release": 6}


def test_a_ledger_that_was_cut_ends_the_resume_with_a_code_of_its_own(cluster: Cluster) -> None:
    leader = cluster.leader({**PRIVATE, "rounds": 3}, faults="kill@leader.selecting:3")
    for name in "ab":
        cluster.learner(leader, "--name", name, *noise(name), "--reconnect-timeout-s", "1")
    assert leader.wait() == -signal.SIGKILL
    path = leader.run_dir / "privacy.jsonl"
    sound = path.read_bytes()

    def refusal(content: bytes) -> str:
        path.write_bytes(content)
        resumed = cluster.resumed(leader)
        assert resumed.wait() == 8
        message, how = [line["message"] for line in resumed.events(LINE)]
        assert how == f"resume with: python -m leader --resume {leader.run_dir}"
        return str(message)

    lines = sound.splitlines(keepends=True)
    next_ = "restore the file or start a new run"
    assert refusal(b"".join(lines[:-1])) == f"error: {path} has 3 entries, the checkpoint knows of 4; {next_}"
    assert refusal(sound.replace(b'"round":1', b'"round":9')).endswith(
        f"entry 4 does not follow the one before; {next_}"
    )


def test_a_leader_says_what_it_promises_and_against_whom(cluster: Cluster) -> None:
    leader: Leader = cluster.leader({**PRIVATE, "rounds": 2})
    for name in "ab":
        cluster.learner(leader, "--name", name, *noise(name))
    leader.succeed()
    told = [entry["message"] for entry in leader.events("log")]
    assert (
        "privacy of each learner: epsilon 8 at delta 1e-05 over the run, against whoever has its models and results; "
        "not against the leader, which sees all updates and is trusted (dp.mode=central)" in told
    )
    [ratio] = [line for line in told if line.startswith("noise over clipped updates: ")]
    assert ratio.endswith("; the noise drowns them: more learners a round, or a smaller model")
    assert "d 91, n 2" in ratio
    assert [event["epsilon"] for event in leader.events("RoundCommitted")][1] <= 8.0
