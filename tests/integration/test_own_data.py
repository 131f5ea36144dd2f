"""Learners with data of their own never fetch any, and nobody gets data from a leader that has none."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from protos import leader_pb2, leader_pb2_grpc
from tests.integration.harness import TIMEOUT_S, Cluster, Leader, Settings

EXAMPLES = 12  # of each learner


def photos(folder: Path, classes: int, seed: int) -> Path:
    """A tree of class folders with EXAMPLES small pictures."""
    random = np.random.Generator(np.random.PCG64(seed))
    for number in range(EXAMPLES):
        path = folder / f"class-{number % classes}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


def served_data(leader: Leader) -> list[str]:
    """What the leader's log says about data that it has sent."""
    said = [entry["message"] for entry in leader.events("log")]
    return [message for message in said if message.startswith("GetData ")]


@pytest.fixture
def short() -> Settings:
    """Two rounds of two steps by two learners."""
    return {
        "learners": 2,
        "rounds": 2,
        "train.local_steps": 2,
        "train.batch_size": 4,
        "evaluation.every": 0,
    }


def test_a_federated_run_moves_no_data(cluster: Cluster, short: Settings, tmp_path: Path) -> None:
    own: Settings = {"data.source": "none", "data.holder": "learner", "model.classes": 3}
    leader = cluster.leader({**short, **own})
    crew = [
        cluster.learner(leader, "--name", name, "--data", str(photos(tmp_path / name, 3, seed)))
        for seed, name in enumerate("ab")
    ]
    for program in (leader, *crew):
        program.succeed()
    joined = {event["name"]: event["own_examples"] for event in leader.events("LearnerJoined")}
    assert joined == {"a": EXAMPLES, "b": EXAMPLES}
    committed = leader.events("RoundCommitted")
    assert [(event["learners"], event["examples"]) for event in committed] == [(2, 2 * EXAMPLES)] * 2
    assert served_data(leader) == []
    # Down goes the model, once to each learner a round, and nothing else.
    sizes = {event["bytes_down"] for event in committed}
    assert len(sizes) == 1
    assert (leader.run_dir / "model.safetensors").stat().st_size == pytest.approx(sizes.pop() / 2, rel=0.01)


def test_only_the_learner_without_data_fetches_its_shard(
    cluster: Cluster, short: Settings, few: Settings, tmp_path: Path
) -> None:
    leader = cluster.leader({**few, **short})
    brings = cluster.learner(leader, "--name", "brings", "--data", str(photos(tmp_path / "own", 10, 0)))
    leader.event("LearnerJoined", name="brings", learner_id=1, own_examples=EXAMPLES)
    takes = cluster.learner(leader, "--name", "takes")
    for program in (leader, brings, takes):
        program.succeed()
    assert served_data(leader) == [f"GetData from learner 2: {few['data.train_examples']} examples"]
    assert "received shard" in takes.output
    assert "received shard" not in brings.output
    assert [event["learners"] for event in leader.events("RoundCommitted")] == [2, 2]


def test_a_leader_without_data_refuses_to_send_any(cluster: Cluster, short: Settings) -> None:
    leader = cluster.leader({**short, "data.source": "none", "data.holder": "learner", "model.classes": 3})
    info = leader_pb2.LearnerInfo(
        protocol=1,
        name="curious",
        control=leader_pb2.CONTROL_SESSION,
        own_data=leader_pb2.OwnData(examples=4, classes=3, fingerprint="x"),
    )
    with grpc.insecure_channel(leader.address) as channel:
        stub = leader_pb2_grpc.LeaderServiceStub(channel)
        token = stub.RegisterLearner(info, timeout=TIMEOUT_S).token
        with pytest.raises(grpc.RpcError) as refusal:
            list(stub.GetData(leader_pb2.LearnerDataRequest(token=token), timeout=TIMEOUT_S))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "hands out no data" in str(refusal.value.details())
        with pytest.raises(grpc.RpcError) as refusal:
            stub.RegisterLearner(leader_pb2.LearnerInfo(name="without", protocol=1), timeout=TIMEOUT_S)
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "start the learner with --data DIR" in str(refusal.value.details())
