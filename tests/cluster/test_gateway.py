"""Learners behind a gateway: whoever they are, however they prove it, a run with them is one without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leader.events import CallRefused, LearnerJoined, LearnerLeft, UpdateAccepted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_identities import secure
from tests.clusters import IMAGES, SHARDS, TIMEOUT_S, join, play, train
from tests.leader.trust.fleet import Fleet
from tests.leader.trust.gateways import gateway_to
from tests.strangers import Stranger, update_of
from tests.tools.envoy import needs_envoy

pytestmark = needs_envoy


def test_two_learners_of_the_plain_contract_take_part_behind_one_gateway(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet, file = Fleet(tmp_path / "trust"), update_of(cluster.app.layout, 0.0)
        with gateway_to(cluster.address, fleet.authority, tmp_path / "edge") as envoy:
            ann = Stranger(envoy.address, fleet.admit("ann"))
            bob = Stranger(envoy.address, fleet.admit("bob"))
            shards = []
            async with ann, bob:
                for one in (ann, bob):
                    await one.stub.RegisterLearner(leader_pb2.LearnerInfo(), timeout=TIMEOUT_S)
                for one in (ann, bob):
                    pieces = one.stub.GetData(leader_pb2.LearnerDataRequest())
                    shards.append(b"".join([piece.chunk async for piece in pieces]))
                for one in (ann, bob):
                    assert (await one.send(file)).success
                await cluster.committed(1)
            assert shards[0] != shards[1]

    run = play(scenario, {**secure(tmp_path), **SHARDS}, data=IMAGES)
    assert [event.name for event in run.seen(LearnerJoined)] == ["ann", "bob"]
    assert [event.learner_id for event in run.seen(UpdateAccepted)] == [1, 2]
    assert run.seen(CallRefused) == []


def test_learners_that_come_with_a_jwt_train_behind_a_gateway(
    tmp_path: Path, token: Callable[..., str]
) -> None:
    for name in "ab":
        (tmp_path / name).write_text(token(sub=name))

    async def scenario(cluster: Cluster) -> None:
        authority = Fleet(tmp_path / "trust").authority
        with gateway_to(cluster.address, authority, tmp_path / "edge", cluster.config) as envoy:
            given = {"leader": envoy.address, "ca": tmp_path / "trust" / "ca.pem", "join": ""}
            for name in "ab":
                join(cluster, name, jwt_file=tmp_path / name, **given)
            await cluster.finished()

    run = play(scenario, secure(tmp_path, trust__jwt_jwks=tmp_path / "jwks.json"))
    identities = Fleet(tmp_path / "trust").authority.state.read().identities
    assert {name: identities[name].by for name in "ab"} == {"a": "jwt", "b": "jwt"}
    assert run.model_sha256 == play(train).model_sha256
    assert (run.seen(LearnerLeft), run.seen(CallRefused)) == ([], [])
