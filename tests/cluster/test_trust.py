"""A secure run: every method has a row in the table of roles, and what an identity may do ends when it is revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc.aio import _server
from grpc_health.v1 import health, health_pb2_grpc

from leader.events import CallRefused, LearnerJoined, LearnerLeft, UpdateAccepted
from leader.trust.access.roles import TABLE
from leader.trust.identities.callers import Caller
from leader.trust.identities.manager import Manager
from protos import leader_pb2, learner_pb2, trust_pb2
from scripts.cluster import Cluster
from tests.clusters import IMAGES, NOISE, TINY, Settings, play
from tests.leader.trust.fleet import Fleet, connect
from tests.tools.grpc_server import started
from utils.errors import BusyError, ForbiddenError, UnknownLearnerError, WireError
from utils.trust import pki
from utils.trust.names import Identity
from utils.wire import contract
from utils.wire.status import failures_told

INFO = leader_pb2.LearnerInfo(
    control=leader_pb2.CONTROL_SESSION,
    own_data=leader_pb2.OwnData(examples=24, classes=2, fingerprint="f"),
)


def registering(token: bytes) -> leader_pb2.LearnerInfo:
    """The registration of a learner that comes back."""
    info = leader_pb2.LearnerInfo(token=token)
    info.MergeFrom(INFO)
    return info


async def unheard(method: str, context: contract.Context, error: WireError) -> None:
    raise AssertionError(f"{method}: {error}")


def secure(folder: Path) -> Settings:
    return {**TINY, "trust.mode": "on", "trust.dir": folder / "trust"}


def test_every_method_that_a_secure_leader_registers_has_a_row_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: set[str] = set()
    add = _server.Server.add_generic_rpc_handlers

    def noting(server: _server.Server, handlers: Any) -> None:
        for handler in handlers:
            registered.update(handler._method_handlers)
        add(server, handlers)

    monkeypatch.setattr(_server.Server, "add_generic_rpc_handlers", noting)

    async def scenario(cluster: Cluster) -> None:
        assert cluster.invitation is not None
        assert cluster.invitation.token.startswith("flk1_")

    play(scenario, {**secure(tmp_path), "edges.listen": "127.0.0.1:0"})
    assert registered == set(TABLE)


def test_revoking_ends_the_session_and_gives_the_place_to_others(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        async with connect(cluster.address, fleet.admit("ann")) as channel:
            ack = await contract.REGISTER.ask(channel, INFO)
            assert ack.name == "ann"
            session = contract.SESSION.open(channel)
            await session.write(leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=ack.token)))
            await cluster.event(LearnerJoined, name="ann")
            fleet.revoke("ann")
            assert (await cluster.event(LearnerLeft, name="ann")).reason == "revoked"
            assert await session.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(ForbiddenError, match="ann was revoked"), failures_told():
                await contract.REGISTER.ask(channel, INFO)
        refused = await cluster.event(CallRefused, method="RegisterLearner")
        assert refused.kind == "ForbiddenError"

    play(scenario, secure(tmp_path))


@pytest.mark.parametrize("forget", [False, True])
def test_a_learner_that_is_dialled_leaves_when_its_name_is_anothers(tmp_path: Path, *, forget: bool) -> None:
    """It has no call that could be ended, and answers each heartbeat: its lease would never run out."""

    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        ann = fleet.admit("ann", serves=True)
        server = aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        async with started(server, ann.for_server()) as address:
            dialled = leader_pb2.LearnerInfo(
                control=leader_pb2.CONTROL_DIALLED, network_addr=address, own_data=INFO.own_data
            )
            async with connect(cluster.address, ann) as channel:
                await contract.REGISTER.ask(channel, dialled)
            if forget:  # and given anew before the leader looks
                Manager(fleet.authority).forget(trust_pb2.ForgetRequest(name="ann"))
            another = fleet.admit("ann", "observer" if forget else "learner")
            assert (await cluster.event(LearnerLeft, name="ann")).reason == "revoked"
            if not forget:
                async with connect(cluster.address, another) as channel:
                    assert (await contract.REGISTER.ask(channel, INFO)).name == "ann"

    play(scenario, secure(tmp_path))


def test_a_name_is_the_certificates_and_a_session_token_of_no_use_to_another(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        ann, eve = fleet.admit("ann"), fleet.admit("eve")
        async with connect(cluster.address, ann) as anns, connect(cluster.address, eve) as eves:
            ack = await contract.REGISTER.ask(anns, INFO)
            named = leader_pb2.LearnerInfo(name="ann")
            named.MergeFrom(INFO)
            with pytest.raises(ForbiddenError, match="its certificate says 'eve'"), failures_told():
                await contract.REGISTER.ask(eves, named)
            with pytest.raises(UnknownLearnerError), failures_told():
                await contract.GET_WORK.ask(eves, leader_pb2.WorkRequest(token=ack.token))
            await contract.GET_WORK.ask(anns, leader_pb2.WorkRequest(token=ack.token))
            long = leader_pb2.LearnerInfo(name="x" * 60_000, control=leader_pb2.CONTROL_DIALLED)
            with pytest.raises(ForbiddenError) as caught, failures_told():
                await contract.REGISTER.ask(eves, long)
            assert len(str(caught.value)) < 200  # also in the log

    play(scenario, secure(tmp_path))


def test_registrations_are_bounded_for_each_identity(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        async with connect(cluster.address, fleet.admit("ann")) as channel:
            token = b""
            for _ in range(3):
                token = (await contract.REGISTER.ask(channel, registering(token))).token
            with (
                pytest.raises(BusyError, match=r"more than 3 registrations a minute") as caught,
                failures_told(),
            ):
                await contract.REGISTER.ask(channel, registering(token))
            assert 0 < caught.value.retry_after_s <= 20

    play(scenario, {**secure(tmp_path), "limits.registrations_per_min": 3})


def test_a_learner_that_is_dialled_must_be_the_one_that_it_says(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        ann = fleet.admit("ann", serves=True)
        called: list[Identity] = []

        async def answer(request: object, context: contract.Context) -> learner_pb2.Ack:
            (pem,) = context.auth_context()["x509_pem_cert"]
            called.append(pki.identity_of(pki.from_pem(pem), fleet.authority.ca))
            return learner_pb2.Ack()

        dial = cluster.app.coordinator.workforce.dial
        server = aio.server()
        server.add_generic_rpc_handlers((contract.serve({contract.STOP_TRAINING: answer}, unheard),))
        async with started(server, ann.for_server()) as address:
            for name, code in (("ann", grpc.StatusCode.OK), ("bob", grpc.StatusCode.UNAVAILABLE)):
                async with dial(address, Caller(name, "learner", "127.0.0.1", name)) as channel:
                    call = contract.STOP_TRAINING.open(channel, learner_pb2.StopNotice())
                    assert await call.code() is code
        assert [identity.role for identity in called] == ["leader"]

    play(scenario, secure(tmp_path))


async def two_learners(cluster: Cluster) -> None:
    for name in ("a", "b"):
        cluster.learner(name, task=NOISE, data=name)
    await cluster.finished()


def test_learners_join_and_the_run_ends_in_the_bits_of_a_plain_one(tmp_path: Path) -> None:
    plain, encrypted = play(two_learners), play(two_learners, secure(tmp_path))
    assert encrypted.model_sha256 == plain.model_sha256
    assert Fleet(tmp_path / "trust").authority.state.read().identities.keys() == {"a", "b"}


def test_after_a_restart_of_the_leader_learners_come_back_by_their_certificates(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in ("a", "b"):
            cluster.learner(name, task=NOISE, data=name)
        await cluster.committed(1)
        await cluster.resume()
        await cluster.finished()

    undisturbed = play(two_learners)
    assert play(scenario, secure(tmp_path)).model_sha256 == undisturbed.model_sha256


def test_a_revoked_learner_leaves_for_good_and_its_shard_goes_to_another(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        fleet = Fleet(tmp_path / "trust")
        a = cluster.learner("a")
        cluster.learner("b")
        await cluster.committed(1)
        a.excused = True
        fleet.revoke("a")
        assert (await cluster.event(LearnerLeft, name="a")).reason == "revoked"
        error = await cluster.failed(a)
        assert isinstance(error, ForbiddenError)
        assert error.exit_code == 7
        await cluster.finished()

    shards = {
        "model.task": "",
        "model.name": "resnet9-w8",
        "data.source": "synthetic",
        "data.holder": "leader",
    }
    play(scenario, {**secure(tmp_path), **shards}, data=IMAGES)


@pytest.mark.parametrize("way", ["upload", "download"])
def test_bytes_are_counted_where_they_travel_and_bounded_for_each_identity(tmp_path: Path, way: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in ("a", "b"):
            cluster.learner(name, task=NOISE, data=name)
        refused = await cluster.event(CallRefused, kind="BusyError")
        assert f"more than 1000 bytes an hour (limits.{way}_bytes_per_hour)" in refused.reason
        assert cluster.seen(UpdateAccepted)  # what began below the quota was let through

    play(scenario, {**secure(tmp_path), f"limits.{way}_bytes_per_hour": 1000})


def test_a_leader_that_others_reach_without_trust_warns_and_makes_no_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert cluster.invitation is None

    folder = tmp_path / "trust"
    play(scenario, {**TINY, "listen": "0.0.0.0:0", "trust.mode": "off", "trust.dir": folder})
    assert caplog.messages[0] == "--insecure: whoever reaches 0.0.0.0:0 can fetch the model and send updates"
    caplog.clear()
    play(scenario, {**TINY, "trust.dir": folder})
    assert not caplog.messages
    assert not folder.exists()
