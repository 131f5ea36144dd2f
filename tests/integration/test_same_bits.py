"""The same seed and data end in the same bits, whoever comes when and in whatever order."""

from __future__ import annotations

import signal

from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, succeed


def train_in_order(cluster: Cluster, settings: Settings, names: str) -> Leader:
    """A run whose learners start one after the other, each when the one before has joined."""
    leader = cluster.leader({**settings, "learners": len(names)})
    crew = []
    for name in names:
        crew.append(cluster.learner(leader, "--name", name))
        leader.event("LearnerJoined", name=name)
    succeed(leader, *crew)
    return leader


def test_a_delta_run_does_not_depend_on_who_comes_when(
    fresh_cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    again = train_in_order(fresh_cluster, delta, "ba")
    assert_same_bits(again.run_dir, undisturbed_delta.run_dir)


def test_a_gradient_run_does_not_depend_on_who_comes_when(
    cluster: Cluster, gradient: Settings, undisturbed_gradient: Leader
) -> None:
    again = train_in_order(cluster, gradient, "ba")
    assert_same_bits(again.run_dir, undisturbed_gradient.run_dir)


def test_another_seed_ends_in_other_bits(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    other = cluster.train({**delta, "rounds": 1, "seed": 8})
    one, two = other.run_dir / "model.safetensors", undisturbed_delta.run_dir / "model.safetensors"
    assert one.read_bytes() != two.read_bytes()


def test_a_learner_that_is_stopped_leaves_its_shard_to_the_other(
    cluster: Cluster, delta: Settings, undisturbed_delta: Leader
) -> None:
    leader = cluster.leader({**delta, "learners": 2})
    stays = cluster.learner(leader, "--name", "a")
    goes = cluster.learner(leader, "--name", "b", faults="stop@learner.training:3")
    goes.frozen()
    goes.signal(signal.SIGTERM)
    goes.signal(signal.SIGCONT)
    assert goes.wait() == 128 + signal.SIGTERM
    leader.event("LearnerLeft", name="b", reason="stopped by SIGTERM")
    leader.event("RoundCommitted", round=5, learners=1)
    succeed(leader, stays)
    assert "Traceback" not in leader.output + stays.output + goes.output
    assert_same_bits(leader.run_dir, undisturbed_delta.run_dir)


def test_a_learner_that_is_killed_leaves_its_shard_to_the_other(
    cluster: Cluster, gradient: Settings, undisturbed_gradient: Leader
) -> None:
    leader = cluster.leader({**gradient, "learners": 2, "cohort.lease_s": 4})
    stays = cluster.learner(leader, "--name", "a")
    goes = cluster.learner(leader, "--name", "b", faults="kill@learner.training:2")
    assert goes.wait() == -signal.SIGKILL
    leader.event("LearnerLeft", name="b", reason="no sign of life for 4 s")
    succeed(leader, stays)
    assert_same_bits(leader.run_dir, undisturbed_gradient.run_dir)
