"""Steps that are exchanged piece by piece end in the bits of steps that are exchanged whole."""

from __future__ import annotations

import signal

import pytest

from tests.integration.harness import (
    Cluster,
    Leader,
    Settings,
    assert_same_bits,
    succeed,
)
from tests.tools.ports import closed_address

PIECES = {"codec.piece_bytes": 64 << 10, "limits.chunk_bytes": 16 << 10}  # many of both


@pytest.fixture(scope="session")
def steps(gradient: Settings) -> Settings:
    """Three rounds of two steps on four shards, with batch norm."""
    return {**gradient, **PIECES, "rounds": 3, "train.local_steps": 2, "data.shards": 4}


@pytest.fixture(scope="module")
def whole(steps: Settings, lasting: Cluster) -> Leader:
    """A run of `steps` that is not pipelined, by two learners."""
    return lasting.train({**steps, "train.pipeline": False})


def test_pieces_end_in_the_bits_of_whole_updates(cluster: Cluster, steps: Settings, whole: Leader) -> None:
    leader = cluster.train(steps)
    assert_same_bits(leader.run_dir, whole.run_dir)
    ours, theirs = leader.events("RoundCommitted"), whole.events("RoundCommitted")
    told = [(event["loss"], event["examples"], event["learners"]) for event in ours]
    assert told == [(event["loss"], event["examples"], event["learners"]) for event in theirs]
    # New weights come down the stream to two learners; nobody fetches a model but the first one.
    model = (leader.run_dir / "model.safetensors").stat().st_size
    assert ours[-1]["bytes_down"] == pytest.approx(2 * 2 * model, rel=0.02)


def test_one_large_piece_will_do(cluster: Cluster, steps: Settings, whole: Leader) -> None:
    leader = cluster.train({**steps, "codec.piece_bytes": 4 << 20}, learners=1)
    assert_same_bits(leader.run_dir, whole.run_dir)


@pytest.mark.parametrize(
    "codec",
    [
        {"codec.up": "int8", "codec.down": "int8", "codec.zstd": True},
        {"codec.up": "topk", "codec.fraction": 0.1, "codec.down": "topk"},
    ],
    ids=["int8", "topk"],
)
def test_encoded_pieces_end_in_the_bits_of_encoded_updates(
    cluster: Cluster, steps: Settings, codec: Settings
) -> None:
    settings: Settings = {**steps, **codec, "rounds": 2}
    pieces = cluster.train(settings)
    whole = cluster.train({**settings, "train.pipeline": False})
    assert_same_bits(pieces.run_dir, whole.run_dir)


def test_learners_that_are_killed_amid_their_pieces_leave_their_shards_to_others(
    cluster: Cluster, steps: Settings, whole: Leader
) -> None:
    leader = cluster.leader({**steps, "learners": 4, "cohort.lease_s": 4})
    stays = cluster.learner(leader, "--name", "a")
    points = {"b": "uploading", "c": "downloading", "d": "uploaded"}
    doomed = [cluster.learner(leader, "--name", b, faults=f"kill@learner.{at}") for b, at in points.items()]
    for learner in doomed:
        assert learner.wait() == -signal.SIGKILL
    succeed(leader, stays)
    left = {event["name"]: event["reason"] for event in leader.events("LearnerLeft")}
    assert left == dict.fromkeys(points, "no sign of life for 4 s")
    assert_same_bits(leader.run_dir, whole.run_dir)


def test_a_learner_that_comes_back_under_its_name_goes_on(
    cluster: Cluster, steps: Settings, whole: Leader
) -> None:
    settings = {**steps, "learners": 2, "cohort.lease_s": 60}
    leader = cluster.leader(settings, secure=True)  # where nobody waits for the name of who was killed
    stays = cluster.join(leader, "a")
    for round_, point in enumerate(("uploading", "downloading", "trained"), start=1):
        killed = cluster.join(leader, "b", faults=f"kill@learner.{point}:{round_}")
        assert killed.wait() == -signal.SIGKILL
    succeed(cluster.join(leader, "b"), leader, stays)
    assert_same_bits(leader.run_dir, whole.run_dir)


def test_a_leader_that_is_killed_again_and_again_goes_on_where_it_was(
    cluster: Cluster, steps: Settings, whole: Leader
) -> None:
    kills = ("committed:1", "uploading:2", "downloading:2", "collected:3")
    faults = [f"kill@leader.{kill}" for kill in kills]
    leader = cluster.leader({**steps, "learners": 2}, faults=faults[0])
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    *_, leader = cluster.resumed_each_time(leader, (*faults[1:], ""))
    succeed(leader, *crew)
    assert_same_bits(leader.run_dir, whole.run_dir)


def test_a_learner_that_sends_whole_updates_works_beside_one_that_sends_pieces(
    cluster: Cluster, steps: Settings, whole: Leader
) -> None:
    leader = cluster.leader({**steps, "learners": 2})
    crew = [
        cluster.learner(leader, "--name", "a"),
        cluster.learner(leader, "--name", "b", "--network-addr", closed_address()),
    ]
    succeed(leader, *crew)
    assert_same_bits(leader.run_dir, whole.run_dir)
