"""A leader that is killed and resumed ends in the bits of one that never was; learners stay up."""

from __future__ import annotations

import signal

import pytest

from leader.storage.checkpoint import load_newest
from tests.integration.harness import LINE, Cluster, Leader, Settings, assert_same_bits, succeed


def test_a_leader_that_is_killed_again_and_again_goes_on_from_its_last_commit(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    kills = {2: "leader.selecting", 3: "leader.uploading", 4: "leader.checkpointing"}
    faults = [f"kill@{point}:{round_}" for round_, point in kills.items()]
    leader = cluster.leader({**delta, "learners": 2}, faults=faults[0])
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    resumed = cluster.resumed_each_time(leader, [*faults[1:], ""])
    for round_, leader in zip(kills, resumed, strict=True):
        assert leader.started["resumed_round"] == round_ - 1
    succeed(leader, *crew)
    assert [event["round"] for event in leader.events("RoundCommitted")] == [4, 5]
    assert_same_bits(leader.run_dir, undisturbed_delta.run_dir)


def test_one_command_starts_a_run_goes_on_with_it_and_has_nothing_to_do_once_it_is_done(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    settings = {**delta, "learners": 2}
    leader = cluster.leader(settings, faults="kill@leader.checkpointing:0")
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    for next_fault, resumed_round in (("kill@leader.uploading:3", 0), ("", 2), ("", 5)):
        address = leader.address
        leader.wait()
        leader = cluster.leader(settings, address, next_fault, again=leader)
        assert leader.started["resumed_round"] == resumed_round
    succeed(leader, *crew)
    assert leader.events("RoundCommitted") == []
    assert_same_bits(leader.run_dir, undisturbed_delta.run_dir)
    assert [line["round"] for line in leader.metrics] == [1, 2, 3, 4, 5]


def test_a_killed_gradient_run_keeps_its_momentum(
    cluster: Cluster, gradient: Settings, undisturbed_gradient: Leader
) -> None:
    leader = cluster.leader({**gradient, "learners": 2}, faults="kill@leader.committed:2")
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    succeed(resumed, *crew)
    assert [event["round"] for event in resumed.events("RoundCommitted")] == [3, 4]
    assert_same_bits(resumed.run_dir, undisturbed_gradient.run_dir)


def stopped(cluster: Cluster, delta: Settings, number: signal.Signals) -> Leader:
    """A leader that a signal has ended at the start of its third round, and its learners with it."""
    leader = cluster.leader({**delta, "learners": 2}, faults="stop@leader.selecting:3")
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    leader.frozen()
    leader.signal(number)
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 130
    for learner in crew:
        learner.succeed()
        assert f"the leader says stop: stopped by {number.name}" in learner.output
    for program in (leader, *crew):
        assert "Traceback" not in program.output
    return leader


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_leader_that_is_stopped_says_how_to_resume_and_sends_its_learners_home(
    cluster: Cluster, delta: Settings, number: signal.Signals
) -> None:
    leader = stopped(cluster, delta, number)
    assert [line["message"] for line in leader.events(LINE)] == [
        f"stopped by {number.name}",
        f"resume with: python -m leader --resume {leader.run_dir}",
    ]
    assert load_newest(leader.run_dir / "checkpoints").round == 2


def test_a_stopped_run_that_new_learners_go_on_with_ends_in_the_same_bits(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    resumed = cluster.resumed(stopped(cluster, delta, signal.SIGTERM))
    crew = [cluster.learner(resumed, "--name", name) for name in "cd"]
    succeed(resumed, *crew)
    assert_same_bits(resumed.run_dir, undisturbed_delta.run_dir)
