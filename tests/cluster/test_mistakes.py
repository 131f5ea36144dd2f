"""What the leader tells learners that don't fit its run."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc import aio

from protos import leader_pb2, leader_pb2_grpc
from scripts.cluster import Cluster
from tests.clusters import Settings, play
from utils.version import RELEASE

WAITING: Settings = {"data.source": "none", "data.holder": "learner", "model.classes": 7}


def test_another_protocol_is_told_what_to_install() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with aio.insecure_channel(cluster.address) as channel:
            stub = leader_pb2_grpc.LeaderServiceStub(channel)
            with pytest.raises(aio.AioRpcError) as refusal:
                await stub.RegisterLearner(leader_pb2.LearnerInfo(protocol=99))
        assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"install flockstep {RELEASE}" in str(refusal.value.details())

    play(scenario, WAITING)


def test_a_learner_with_other_classes_ends_with_the_leaders_reason(tmp_path: Path) -> None:
    for label in "xy":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.ppm").write_bytes(b"P6 1 1 255 abc")

    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(cluster.learner(data=tmp_path))
        assert "your data has 2 classes, this run's model 7" in str(error)

    play(scenario, WAITING)
