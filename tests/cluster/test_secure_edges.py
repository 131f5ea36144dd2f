"""Edges of a secure run: learners send to those that the leader's CA has admitted as such, and to nobody else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.distributed.contract import JOIN, VERSION
from leader.events import EdgeServes, RoundCommitted, UpdateAccepted
from protos import edge_pb2
from scripts.cluster import Cluster
from scripts.demo import free_port
from tests.clusters import TINY, Settings, join, one_edge, play, train
from tests.leader.trust.fleet import Fleet
from tests.leader.trust.gateways import gateway_to
from tests.tools.envoy import needs_envoy
from utils.trust.names import EDGE_TLS_NAME


def secure(folder: Path) -> Settings:
    """A secure run with edges."""
    return {**TINY, "edges.listen": "127.0.0.1:0", "trust.mode": "on", "trust.dir": folder / "trust"}


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
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", EDGE_TLS_NAME))

        def joining(role: str) -> Any:
            tls = fleet.admit(f"an-{role}", role).for_channel()
            channel = aio.secure_channel(f"127.0.0.1:{port}", tls, options=options)
            stack.push_async_callback(channel.close)
            return JOIN.open(channel)

        async with AsyncExitStack() as stack:
            admitted = joining("aggregator")
            await admitted.write(hello)
            assert JOIN.told.read(await admitted.read()).HasField("welcome")
            assert await joining("learner").code() is grpc.StatusCode.PERMISSION_DENIED

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
