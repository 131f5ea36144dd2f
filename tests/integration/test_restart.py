"""A leader that is killed and resumed ends in the bits of one that never was; learners stay up."""

from __future__ import annotations

import signal

import pytest

from leader.checkpoint import load_newest
from tests.integration.harness import LINE, Cluster, Entry, Leader, Settings, assert_same_bits


@pytest.mark.parametrize(
    "moment",
    [{"event": "RoundCommitted", "round": 2}, {"event": "UpdateAccepted", "round": 3}],
    ids=["between rounds", "inside a round"],
)
def test_a_killed_leader_goes_on_from_its_last_commit(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader, moment: Entry
) -> None:
    leader = cluster.leader({**delta, "learners": 2})
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    leader.event(moment["event"], round=moment["round"])
    leader.kill()
    committed = load_newest(leader.run_dir / "checkpoints").round
    assert 2 <= committed < 5

    resumed = cluster.resumed(leader)
    assert resumed.event("RunStarted")["resumed_round"] == committed
    for program in (resumed, *crew):
        program.succeed()
        assert "Traceback" not in program.output
    rounds = [event["round"] for event in resumed.events("RoundCommitted")]
    assert rounds == list(range(committed + 1, 6))
    assert_same_bits(resumed.run_dir, undisturbed_delta.run_dir)


def test_a_killed_gradient_run_keeps_its_momentum(
    cluster: Cluster, gradient: Settings, undisturbed_gradient: Leader
) -> None:
    leader = cluster.leader({**gradient, "learners": 2})
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    leader.event("StepApplied", round=2, step=1)
    leader.kill()
    resumed = cluster.resumed(leader)
    for program in (resumed, *crew):
        program.succeed()
    assert_same_bits(resumed.run_dir, undisturbed_gradient.run_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_leader_that_is_stopped_says_how_to_resume_and_sends_its_learners_home(
    cluster: Cluster, delta: Settings, number: signal.Signals
) -> None:
    leader = cluster.leader({**delta, "learners": 2})
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    leader.event("RoundCommitted", round=2)
    leader.signal(number)
    assert leader.wait() == 130
    said = [line["message"] for line in leader.events(LINE)]
    assert said == [
        f"stopped by {number.name}",
        f"resume with: python -m leader --resume {leader.run_dir}",
    ]
    assert 2 <= load_newest(leader.run_dir / "checkpoints").round < 5
    for learner in crew:
        learner.succeed()
        assert f"the leader says stop: stopped by {number.name}" in learner.output
    for program in (leader, *crew):
        assert "Traceback" not in program.output
