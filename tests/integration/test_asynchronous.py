"""Asynchronous runs with real processes: whoever is slow, gone or too late holds nobody up and is counted once."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from leader.storage.checkpoint import load_newest
from tests.integration.harness import Cluster, Entry, Leader, Program, ProxyTo, Settings, succeed

DEBUG = ("--log-level", "debug")


@pytest.fixture
def buffered(tiny: Settings) -> Settings:
    """Rounds of two updates, whosever they are, of three learners; none is lost for being silent."""
    return {
        **tiny,
        "learners": 3,
        "rounds": 10,
        "buffer.size": 2,
        "cohort.lease_s": 100,
        "evaluation.every": 0,
    }


def crew_of(cluster: Cluster, leader: Leader, *names: str, faults: str = "") -> list[Program]:
    return [cluster.learner(leader, "--name", name, *DEBUG, faults=faults) for name in names]


def id_of(leader: Leader, name: str) -> int:
    """The learner id that goes with a name, of a learner that has joined."""
    for entry in leader.seen:
        if entry["event"] == "LearnerJoined" and entry["name"] == name:
            return int(entry["learner_id"])
    return int(leader.event("LearnerJoined", name=name)["learner_id"])


def asks_for_data(leader: Leader, number: int) -> None:
    """Wait until the learner with this id asks for its shard."""
    while not leader.event("log", logger="leader.rpc.service")["message"].startswith(
        f"GetData from learner {number}:"
    ):
        pass


def stop_all(leader: Leader, learners: list[Program]) -> None:
    """Stop these while the leader is stopped by its fault, so that no round passes meanwhile."""
    leader.frozen()
    for learner in learners:
        learner.signal(signal.SIGSTOP)
    leader.signal(signal.SIGCONT)


def made(learner: Program) -> list[Entry]:
    """All updates that a learner which has ended has made."""
    return learner.events("UpdateMade")


def counted(leader: Leader, last: int) -> Counter[tuple[str, int]]:
    """How often each (learner, number of its work) is in the committed rounds up to `last`."""
    names = {entry["learner_id"]: entry["name"] for entry in leader.events("LearnerJoined")}
    accepted = leader.events("UpdateAccepted")
    return Counter((names[e["learner_id"]], e["step"]) for e in accepted if e["round"] <= last)


def assert_complete(leader: Leader, rounds: int = 10) -> None:
    """Check that the run has all its rounds, each with two updates."""
    state = load_newest(leader.run_dir / "checkpoints")
    assert state.round == state.exchanges == rounds
    assert sum(state.turns.values()) - len(state.open_work) >= 2 * rounds


def test_a_frozen_learner_holds_nobody_up_and_goes_on(cluster: Cluster, buffered: Settings) -> None:
    leader = cluster.leader({**buffered, "buffer.max_staleness": 20}, faults="stop@leader.committed:6")
    slow = cluster.learner(leader, "--name", "slow", *DEBUG, faults="stop@learner.trained")
    quick = crew_of(cluster, leader, "a", "b")
    slow.frozen()
    stop_all(leader, quick)
    number = id_of(leader, "slow")
    slow.signal(signal.SIGCONT)
    first = leader.event("UpdateAccepted", learner_id=number)
    for learner in quick:
        learner.signal(signal.SIGCONT)
    assert first["round"] >= 7
    assert first["step"] == 0
    succeed(leader, slow, *quick)
    assert "is no longer open" not in slow.output
    assert max(counted(leader, 10).values()) == 1
    assert_complete(leader)


def test_a_frozen_learner_whose_work_became_too_old_is_given_other_work(
    cluster: Cluster, buffered: Settings
) -> None:
    leader = cluster.leader({**buffered, "rounds": 1000, "buffer.max_staleness": 2})
    slow = cluster.learner(leader, "--name", "slow", *DEBUG, faults="stop@learner.trained")
    quick = crew_of(cluster, leader, "a", "b")
    slow.frozen()
    overdue = leader.event("LearnerOverdue", name="slow")
    assert overdue["behind_s"] == pytest.approx(2 * overdue["waited_s"])
    leader.event("RoundCommitted", round=6)
    slow.signal(signal.SIGCONT)
    number = id_of(leader, "slow")
    refused = leader.event("CallRefused", learner_id=number)
    assert refused["kind"] == "LateUpdateError"
    assert leader.event("UpdateAccepted", learner_id=number)["round"] >= 7
    leader.signal(signal.SIGTERM)
    for program in (leader, slow, *quick):
        program.wait()
    committed = load_newest(leader.run_dir / "checkpoints")
    assert committed.round >= 7


@pytest.mark.parametrize("point", ["collected", "committed"])
def test_a_killed_leader_goes_on_with_the_work_that_learners_have(
    cluster: Cluster, buffered: Settings, point: str
) -> None:
    leader = cluster.leader(buffered, faults=f"kill@leader.{point}:4")
    slow = cluster.learner(leader, "--name", "slow", *DEBUG, faults="stop@learner.trained")
    quick = crew_of(cluster, leader, "a", "b")
    assert leader.wait() == -signal.SIGKILL
    slow.frozen()
    resumed = cluster.resumed(leader)
    slow.signal(signal.SIGCONT)
    done = 4 if point == "committed" else 3
    assert resumed.started["resumed_round"] == done
    first = resumed.event("UpdateAccepted", learner_id=id_of(resumed, "slow"))
    assert first["step"] == 0  # made in the first round, before the leader died
    succeed(resumed, slow, *quick)
    assert "sending the update again that was made before" in slow.output
    assert [entry["step"] for entry in made(slow)].count(0) == 1
    both = counted(leader, done) + counted(resumed, 10)
    assert max(both.values()) == 1
    assert sum(both.values()) == 2 * 10
    assert_complete(resumed)


def test_a_learner_whose_model_is_gone_gets_new_work(
    cluster: Cluster, buffered: Settings, proxy_to: ProxyTo
) -> None:
    settings = {**buffered, "rounds": 25, "buffer.max_staleness": 1000}
    leader = cluster.leader(settings, faults="stop@leader.committed:8")
    proxy = proxy_to(leader)
    proxy.set_bandwidth(30_000)
    far = cluster.learner(proxy.address, "--name", "far", *DEBUG)
    number = id_of(leader, "far")
    near = crew_of(cluster, leader, "a", "b")
    asks_for_data(leader, number)
    proxy.pause()  # its shard comes when the model that it is to start from is gone
    stop_all(leader, near)
    proxy.set_bandwidth(None)
    proxy.resume()
    refused = leader.event("CallRefused", method="GetModel", learner_id=number)
    assert refused["kind"] == "LateUpdateError"
    first = leader.event("UpdateAccepted", learner_id=number)
    assert first["step"] > 0
    for learner in near:
        learner.signal(signal.SIGCONT)
    succeed(leader, far, *near)
    assert max(counted(leader, 25).values()) == 1
    assert_complete(leader, 25)


def test_the_shards_of_a_learner_that_leaves_go_on_at_another(cluster: Cluster, buffered: Settings) -> None:
    leader = cluster.leader(buffered)
    (leaves,) = crew_of(cluster, leader, "c", faults="stop@learner.uploaded")
    stay = crew_of(cluster, leader, "a", "b", faults="stop@learner.trained")
    leaves.frozen()
    leaves.signal(signal.SIGTERM)
    leaves.signal(signal.SIGCONT)
    leaves.wait()
    for learner in stay:
        learner.frozen()
        learner.signal(signal.SIGCONT)
    succeed(leader, *stay)
    (part,) = {entry["part"] for entry in made(leaves)}
    heirs = [learner for learner in stay if part in {entry["part"] for entry in made(learner)}]
    assert len(heirs) == 1
    turns = [
        entry["step"] for learner in (leaves, *heirs) for entry in made(learner) if entry["part"] == part
    ]
    assert sorted(set(turns)) == list(range(len(set(turns))))
    assert_complete(leader)


def test_a_run_that_everybody_leaves_waits_and_goes_on(cluster: Cluster, buffered: Settings) -> None:
    leader = cluster.leader({**buffered, "cohort.lease_s": 2, "learners": 2, "buffer.size": 5, "rounds": 4})
    # Each with its first work of round 3, which is the second there at most: four are not enough for it.
    for learner in crew_of(cluster, leader, "a", "b", faults="kill@learner.uploaded:3"):
        assert learner.wait() == -signal.SIGKILL
    assert leader.event("RoundAbandoned")["reason"] == "no learner is left"
    leader.event("WaitingForLearners")
    succeed(*crew_of(cluster, leader, "a", "b"), leader)
    assert [entry["round"] for entry in leader.events("RoundCommitted")] == [1, 2, 3, 4]
    again = Counter(entry["round"] for entry in leader.events("UpdateAccepted"))
    assert (again[1], again[2], again[4]) == (5, 5, 5)
    assert again[3] > 5
    state = load_newest(leader.run_dir / "checkpoints")
    assert sum(state.turns.values()) - len(state.open_work) == 4 * 5
