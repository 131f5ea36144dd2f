"""How learners are told about work makes no difference to the result."""

from __future__ import annotations

import signal

from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, closed_address


def test_a_learner_behind_nat_and_one_that_is_dialled_work_together(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    leader = cluster.leader({**delta, "learners": 2})
    crew = [
        cluster.learner(leader, "--name", "a"),
        cluster.learner(leader, "--name", "b", "--network-addr", closed_address()),
    ]
    for program in (leader, *crew):
        program.succeed()
        assert "Traceback" not in program.output
    joined = {event["name"]: event["control"] for event in leader.events("LearnerJoined")}
    assert joined == {"a": "session", "b": "dialled"}
    assert [event["learners"] for event in leader.events("RoundCommitted")] == [2] * 5
    assert_same_bits(leader.run_dir, undisturbed_delta.run_dir)


def test_a_dialled_learner_stays_through_a_restart_of_the_leader(
    cluster: Cluster, gradient: Settings, undisturbed_gradient: Leader
) -> None:
    settings: Settings = {**gradient, "learners": 2, "cohort.lease_s": 2}
    leader = cluster.leader(settings, faults="kill@leader.selecting:3")
    crew = [
        cluster.learner(leader, "--name", "a"),
        cluster.learner(leader, "--name", "b", "--network-addr", closed_address()),
    ]
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader, "--set", "cohort.lease_s=20")
    for program in (resumed, *crew):
        program.succeed()
    assert_same_bits(resumed.run_dir, undisturbed_gradient.run_dir)
