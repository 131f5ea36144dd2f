"""Edges of a secure run: learners send to those that the leader's CA has admitted as such, and to nobody else."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from pydantic import SecretStr

from leader.aggregator.app import App as Aggregator
from leader.distributed.contract import JOIN, VERSION
from leader.edge.options import JoinOptions
from leader.events import EdgeServes, LearnerLeft, RoundCommitted, UpdateAccepted
from leader.trust.identities.manager import Manager
from protos import edge_pb2, leader_pb2, leader_pb2_grpc, trust_pb2
from scripts.cluster import Cluster
from tests.cluster.test_edges import Slow
from tests.clusters import IMAGES, SHARDS, TINY, Settings, join, one_edge, play, train
from tests.leader.trust.fleet import Fleet
from tests.leader.trust.gateways import gateway_to
from tests.strangers import Stranger
from tests.tools.envoy import needs_envoy
from tests.tools.ports import free_port
from utils.errors import ConfigError, ForbiddenError
from utils.trust.credentials import Credentials
from utils.trust.names import EDGE_TLS_NAME


def secure(folder: Path, settings: Settings = TINY) -> Settings:
    """A secure run with edges."""
    return {**settings, "edges.listen": "127.0.0.1:0", "trust.mode": "on", "trust.dir": folder / "trust"}


def files(folder: Path, name: str, role: str = "aggregator") -> dict[str, Any]:
    """Flags with files of what somebody has been admitted with."""
    held = Fleet(folder / "trust").admit(name, role, serves=True)
    (folder / name).mkdir()
    for file, text in (("key", held.key), ("certificate", held.certificate), ("ca", held.roots)):
        (folder / name / file).write_bytes(text)
    return {file: folder / name / file for file in ("key", "certificate", "ca")}


def test_updates_go_through_an_edge_that_the_leaders_ca_admitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster, **files(tmp_path, "east"))
        join(cluster, "a")
        join(cluster, "b")
        await cluster.finished()

    through = play(scenario, secure(tmp_path))
    plain = play(train)
    assert through.model_sha256 == plain.model_sha256
    assert len(through.seen(UpdateAccepted)) == 6
    assert [record for record in caplog.records if record.name == "learner.wire.edges"] == []
    bytes_up = [[event.bytes_up for event in run.seen(RoundCommitted)] for run in (through, plain)]
    assert bytes_up[0] != bytes_up[1]  # a sum, in place of updates


def test_only_an_edge_can_be_one_below_another(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        port = free_port()
        await one_edge(cluster, "top", edges_listen=f"127.0.0.1:{port}", **files(tmp_path, "top"))
        fleet = Fleet(tmp_path / "trust")
        hello = edge_pb2.EdgeUp(hello=edge_pb2.EdgeHello(protocol=VERSION, name="below"))

        def joining(role: str) -> Any:
            channel = to_edge(f"127.0.0.1:{port}", fleet.admit(f"an-{role}", role))
            stack.push_async_callback(channel.close)
            return JOIN.open(channel)

        async with AsyncExitStack() as stack:
            admitted = joining("aggregator")
            await admitted.write(hello)
            assert JOIN.told.read(await admitted.read()).HasField("welcome")
            assert await joining("learner").code() is grpc.StatusCode.PERMISSION_DENIED

    play(scenario, secure(tmp_path))


def to_edge(address: str, held: Credentials) -> aio.Channel:
    """A channel of its own to whoever may be an edge."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", EDGE_TLS_NAME))
    return aio.secure_channel(address, held.for_channel(), options=options)


def test_a_revoked_learner_is_cut_off_at_all_edges_and_the_others_end_in_the_same_bits(
    tmp_path: Path,
) -> None:
    words = "leader: eve was revoked; ask the leader's operator"
    never = asyncio.Event()

    async def upload(order: leader_pb2.WorkOrder) -> AsyncIterator[leader_pb2.GradientData]:
        said: dict[str, Any] = {"work_id": order.work_id, "ticket": order.via.ticket, "examples": 1}
        yield leader_pb2.GradientData(header=leader_pb2.UpdateHeader(total_bytes=1000, **said))
        await never.wait()

    async def refused(call: Any) -> str:
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        return str(await call.details())

    async def scenario(cluster: Cluster) -> None:
        port, fleet = free_port(), Fleet(tmp_path / "trust")
        await one_edge(cluster, "top", edges_listen=f"127.0.0.1:{port}", **files(tmp_path, "top"))
        cluster.edge("low", above=port, **files(tmp_path, "low"))
        await cluster.until(lambda: len(cluster.app.edges) == 2, "no edge below")
        Slow.may = asyncio.Event()  # else a inherits eve's shard and ends the round while she is asking
        cluster.learner("a", worker=Slow)
        eve, ann = fleet.admit("eve"), fleet.admit("ann")
        async with AsyncExitStack() as stack:
            stranger = await stack.enter_async_context(Stranger(cluster.address, eve))
            await stranger.register()
            await stranger.open_session()
            order = await stranger.work()
            asked = leader_pb2.Empty(ticket=order.via.ticket, version=order.version)
            status = leader_pb2.UploadRequest(ticket=order.via.ticket, work_id=order.work_id, total_bytes=9)
            assert len(order.via.edges) == 2
            hers, others, live = [], [], []
            for address in order.via.edges:
                channels = [await stack.enter_async_context(to_edge(address, held)) for held in (eve, ann)]
                own, other = map(leader_pb2_grpc.LeaderServiceStub, channels)
                live.append(own.AccumulateGradients(upload(order)))
                await own.GetUpload(status)  # by when this is answered, what was sent before it has come
                hers.append(own)
                others.append(other)
            fleet.revoke("eve")
            assert {await refused(call) for call in live} == {words}
            for stub in (*hers, *others):  # by her certificate, and by her ticket
                assert await refused(stub.GetModel(asked)) == words
                assert await refused(stub.GetUpload(status)) == words
                assert await refused(stub.AccumulateGradients(upload(order))) == words
        never.set()
        Slow.may.set()
        await cluster.event(LearnerLeft, reason="revoked")
        cluster.learner("b")
        await cluster.finished()

    shards: Settings = {**SHARDS, "rounds": 2}
    through = play(scenario, secure(tmp_path, shards), data=IMAGES)
    assert through.model_sha256 == play(train_shards, shards, data=IMAGES).model_sha256


async def train_shards(cluster: Cluster) -> None:
    """All rounds, by two learners that have their data from the leader."""
    cluster.learner("a")
    cluster.learner("b")
    await cluster.finished()


def test_a_revoked_edge_is_cut_off_by_the_leader_and_by_the_edge_above_it(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        port, fleet = free_port(), Fleet(tmp_path / "trust")
        await one_edge(cluster, "top", edges_listen=f"127.0.0.1:{port}", **files(tmp_path, "top"))
        below = files(tmp_path, "low")
        gone = [cluster.edge("low", above=port, **below), cluster.edge("west", **files(tmp_path, "west"))]
        await cluster.until(lambda: len(cluster.app.edges) == 3, "no edges")
        join(cluster, "a")
        for edge in gone:
            fleet.revoke(edge.name)
            error = await cluster.failed(edge)
            assert isinstance(error, ForbiddenError)
            assert str(error) == f"{edge.name} was revoked; ask the leader's operator"
        await cluster.until(lambda: len(cluster.app.edges) == 1, "a revoked edge is still there")
        again = await cluster.failed(cluster.edge("low", above=port, **below))
        assert str(again) == "low was revoked; ask the leader's operator"
        join(cluster, "b")
        await cluster.finished()

    assert play(scenario, secure(tmp_path)).model_sha256 == play(train).model_sha256


def token_of(folder: Path, role: str = "aggregator") -> str:
    """A join token for one."""
    request = trust_pb2.TokenRequest(role=role, uses=1, hours=1.0)
    return Manager(Fleet(folder / "trust").authority).make_token(request).text


def test_edges_join_by_a_token_and_are_renewed_and_nothing_is_lost(tmp_path: Path, home: Path) -> None:
    rounds: Settings = {**TINY, "rounds": 150}  # some seconds on any machine

    def told() -> Counter[tuple[str, str]]:
        lines = map(json.loads, (tmp_path / "trust" / "audit.jsonl").read_text().splitlines())
        return Counter((line["what"], line["who"]) for line in lines)

    def renewed() -> bool:
        return min(told()["renewed", name] for name in ("top", "low")) >= 1

    async def scenario(cluster: Cluster) -> None:
        port = free_port()
        below = f"127.0.0.1:{port}"
        top = await one_edge(cluster, "top", edges_listen=below, join=token_of(tmp_path))
        proof = {"join": token_of(tmp_path), "join_leader": cluster.address}
        low = cluster.edge("low", above=port, **proof)
        await cluster.until(lambda: len(cluster.app.edges) == 2, "no edge below")
        join(cluster, "a")
        await cluster.until(
            renewed, "no new certificates"
        )  # also on a machine that is done with 150 rounds by then
        join(cluster, "b")
        await cluster.finished()
        assert (top.error, low.error) == (None, None)

    short = {"trust.cert_hours": 10 / 3600, "limits.registrations_per_min": 1000, "limits.calls_per_s": 1000}
    run = play(scenario, {**secure(tmp_path, rounds), **short})
    assert run.model_sha256 == play(train, rounds).model_sha256
    assert told()["enrolled", "top"] == told()["enrolled", "low"] == 1
    assert {path.parent.name for path in (home.parent / "edges").glob("*/*/cert.pem")} == {"top", "low"}


def test_a_token_of_another_role_or_leader_makes_no_edge_and_is_not_used_up(
    tmp_path: Path, home: Path
) -> None:
    async def scenario(cluster: Cluster) -> None:
        learners = token_of(tmp_path, "learner")
        error = await cluster.failed(cluster.edge("east", join=learners))
        assert isinstance(error, ForbiddenError)
        advice = "make a new one: python -m leader.trust token --role ROLE"
        assert str(error) == f"this token is for role learner alone; {advice}"
        error = await cluster.failed(cluster.edge("east", join=token_of(tmp_path / "other")))
        assert isinstance(error, ForbiddenError)
        between = "wrong address, or somebody is in between"
        assert str(error).endswith(f" is not the leader of this token: {between}")
        assert not [*home.parent.glob("edges/*/*/cert.pem")]
        join(cluster, "a", join=learners, identity=None)
        await one_edge(cluster, join=token_of(tmp_path))
        join(cluster, "b")
        await cluster.finished()

    assert play(scenario, secure(tmp_path)).model_sha256 == play(train).model_sha256


def test_an_aggregator_joins_by_a_token_as_an_edge_does(tmp_path: Path, home: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        leader = (cluster.run_dir / "edges").read_text()
        options = JoinOptions(leader=leader, name="sums", join=SecretStr(token_of(tmp_path)))
        with pytest.raises(ConfigError, match="keeps no updates in Kafka"):  # what it is told once it is in
            await Aggregator(options).follow()
        assert [path.name for path in (home.parent / "edges").glob("*/*")] == ["sums"]

    play(scenario, secure(tmp_path))


def test_an_edge_is_known_by_what_it_has_kept_and_joins_again_by_a_new_token_where_it_was_forgotten(
    tmp_path: Path,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for proof in (token_of(tmp_path), ""):
            await (await one_edge(cluster, join=proof)).kill()
            await cluster.until(lambda: not cluster.app.edges, "the edge is still there")
        Manager(Fleet(tmp_path / "trust").authority).forget(trust_pb2.ForgetRequest(name="east"))
        error = await cluster.failed(cluster.edge("east"))
        assert str(error) == "the certificate of east was replaced or forgotten; join with a new token"
        await one_edge(cluster, join=token_of(tmp_path))

    play(scenario, secure(tmp_path))


@needs_envoy
def test_updates_go_through_edges_behind_one_envoy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: Cluster) -> None:
        edges = {name: f"127.0.0.1:{free_port()}" for name in ("east", "west")}
        authority = Fleet(tmp_path / "trust").authority
        with gateway_to("", authority, tmp_path / "gateway", cluster.config, list(edges.values())) as envoy:
            for name, listen in edges.items():
                cluster.edge(name, listen=listen, advertise=envoy.address, **files(tmp_path, name))
                await cluster.event(EdgeServes, name=name)
            join(cluster, "a")
            join(cluster, "b")
            await cluster.finished()

    caplog.clear()
    through, plain = play(scenario, secure(tmp_path)), play(train)
    assert through.model_sha256 == plain.model_sha256
    assert [record for record in caplog.records if record.name == "learner.wire.edges"] == []
    assert [e.bytes_up for e in through.seen(RoundCommitted)] != [
        e.bytes_up for e in plain.seen(RoundCommitted)
    ]
