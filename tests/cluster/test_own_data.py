"""Learners with data of their own never fetch any, and nobody gets data from a leader that has none."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import aio
from PIL import Image

from leader.events import LearnerJoined, RoundCommitted
from protos import leader_pb2, leader_pb2_grpc
from scripts.cluster import Cluster
from tests.clusters import IMAGES, TIMEOUT_S, Settings, play

EXAMPLES = 12  # of each learner
#: Two rounds of two steps by two learners.
SHORT: Settings = {
    "learners": 2,
    "rounds": 2,
    "model.name": "resnet20",
    "train.local_steps": 2,
    "train.batch_size": 4,
    "train.dtype": "float32",
    "evaluation.every": 0,
}
OWN: Settings = {**SHORT, "data.source": "none", "data.holder": "learner", "model.classes": 3}


def photos(folder: Path, classes: int, seed: int) -> Path:
    """A tree of class folders with EXAMPLES small pictures."""
    random = np.random.Generator(np.random.PCG64(seed))
    for number in range(EXAMPLES):
        path = folder / f"class-{number % classes}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


def served_data(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the leader says about data that it has sent."""
    return [message for message in caplog.messages if message.startswith("GetData ")]


@pytest.fixture(autouse=True)
def talkative(caplog: pytest.LogCaptureFixture) -> None:
    """Have the leader and its learners say what they do."""
    caplog.set_level(logging.DEBUG)


def test_a_federated_run_moves_no_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: Cluster) -> None:
        for seed, name in enumerate("ab"):
            cluster.learner(name, data=photos(tmp_path / name, 3, seed))
        await cluster.finished()
        # Down goes the model, once to each learner a round, and nothing else.
        [size] = {event.bytes_down for event in cluster.seen(RoundCommitted)}
        assert (cluster.run_dir / "model.safetensors").stat().st_size == pytest.approx(size / 2, rel=0.01)

    cluster = play(scenario, OWN)
    joined = {event.name: event.own_examples for event in cluster.seen(LearnerJoined)}
    assert joined == {"a": EXAMPLES, "b": EXAMPLES}
    committed = [(event.learners, event.examples) for event in cluster.seen(RoundCommitted)]
    assert committed == [(2, 2 * EXAMPLES)] * 2
    assert served_data(caplog) == []


def test_only_the_learner_without_data_fetches_its_shard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.learner("brings", data=photos(tmp_path / "own", 4, 0))
        await cluster.event(LearnerJoined, name="brings", learner_id=1, own_examples=EXAMPLES)
        cluster.learner("takes")
        await cluster.finished()

    cluster = play(scenario, SHORT, data=IMAGES)
    assert served_data(caplog) == ["GetData from learner 2: 64 examples"]
    assert len([message for message in caplog.messages if message.startswith("received shard")]) == 1
    assert [event.learners for event in cluster.seen(RoundCommitted)] == [2, 2]


def test_a_leader_without_data_refuses_to_send_any() -> None:
    async def scenario(cluster: Cluster) -> None:
        info = leader_pb2.LearnerInfo(
            protocol=1,
            name="curious",
            control=leader_pb2.CONTROL_SESSION,
            own_data=leader_pb2.OwnData(examples=4, classes=3, fingerprint="x"),
        )
        async with aio.insecure_channel(cluster.address) as channel:
            stub = leader_pb2_grpc.LeaderServiceStub(channel)
            token = (await stub.RegisterLearner(info, timeout=TIMEOUT_S)).token
            with pytest.raises(aio.AioRpcError) as refusal:
                await stub.GetData(leader_pb2.LearnerDataRequest(token=token), timeout=TIMEOUT_S).read()
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "hands out no data" in str(refusal.value.details())
            with pytest.raises(aio.AioRpcError) as refusal:
                await stub.RegisterLearner(leader_pb2.LearnerInfo(name="without", protocol=1))
            assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "start the learner with --data DIR" in str(refusal.value.details())

    play(scenario, OWN)
