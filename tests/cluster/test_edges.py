"""Runs whose updates go through edges: the bits of the run without, whoever goes and whatever comes twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from leader.events import EdgeServes, FederatedEvaluated, RoundCommitted, UpdateAccepted, UpdatesLost
from learner.work.worker import Worker
from scripts.cluster import Cluster, Node
from scripts.demo import free_port
from tests.clusters import TINY, Settings, join, one_edge, play, train
from utils.errors import IncompatibleError

FOUR: Settings = {**TINY, "learners": 4}
EDGED: Settings = {**FOUR, "edges.listen": "127.0.0.1:0"}


async def edged(cluster: Cluster) -> None:
    """Two edges, then four learners."""
    for name in ("east", "west"):
        cluster.edge(name)
    await cluster.until(lambda: len(cluster.app.edges) == 2, "no edges")
    for name in "abcd":
        join(cluster, name)
    await cluster.finished()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"codec.up": "int8"},
        {"aggregate.weighting": "fednova", "train.momentum": 0.9},
        {"train.control_variates": True, "train.momentum": 0, "train.nesterov": False},
    ],
    ids=str,
)
def test_the_bits_are_those_of_the_run_without_edges(settings: Settings) -> None:
    plain = play(train, {**FOUR, **settings})
    through = play(edged, {**EDGED, **settings})
    assert through.model_sha256 == plain.model_sha256
    assert [e.loss for e in through.seen(RoundCommitted)] == [e.loss for e in plain.seen(RoundCommitted)]
    assert len(through.seen(UpdateAccepted)) == 12
    assert {e.name for e in through.seen(EdgeServes)} == {"east", "west"}


class Slow(Worker):
    """A learner that sends nothing before it may."""

    may: asyncio.Event

    async def _send(self, *held: Any, **more: Any) -> None:
        await self.may.wait()
        await super()._send(*held, **more)


async def all_but_d(cluster: Cluster) -> Node:
    """An edge, and four learners of which all but d have sent an update there; d sends when it may."""
    edge = await one_edge(cluster)
    for name in "abc":
        join(cluster, name)
    Slow.may = asyncio.Event()
    join(cluster, "d", worker=Slow)
    await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 3, "no updates")
    return edge


def test_what_an_edge_had_comes_again_when_it_is_killed() -> None:
    async def scenario(cluster: Cluster) -> None:
        edge = await all_but_d(cluster)
        await edge.kill()
        lost = await cluster.event(UpdatesLost)
        # On a busy machine one may have given the edge up and gone to the leader.
        assert set(lost.parts) <= {"own-a", "own-b", "own-c"}
        again = 3 + len(lost.parts)
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == again, "they don't come again")
        Slow.may.set()
        await cluster.finished()

    through = play(scenario, EDGED)
    assert through.model_sha256 == play(train, FOUR).model_sha256
    assert [e.learners for e in through.seen(RoundCommitted)] == [4, 4, 4]
    assert [e.examples for e in through.seen(RoundCommitted)] == [96, 96, 96]


def test_edges_under_edges_give_one_sum() -> None:
    async def scenario(cluster: Cluster) -> None:
        port = free_port()
        await one_edge(cluster, "top", edges_listen=f"127.0.0.1:{port}")
        for name in ("left", "right"):
            cluster.edge(name, above=port)
        await cluster.until(lambda: len(cluster.app.edges) == 3, "no edges below")
        for name in "abcdefgh":
            join(cluster, name)
        await cluster.finished()

    eight = {"learners": 8}
    through = play(scenario, {**EDGED, **eight})
    assert through.model_sha256 == play(train, {**FOUR, **eight}).model_sha256


def test_a_leader_that_is_killed_goes_on_with_its_edges() -> None:
    async def scenario(cluster: Cluster) -> None:
        await one_edge(cluster)
        for name in "abcd":
            join(cluster, name)
        await cluster.committed(1)
        await cluster.resume()
        await cluster.finished()

    through = play(scenario, {**EDGED, "edges.listen": f"127.0.0.1:{free_port()}"})
    assert through.model_sha256 == play(train, FOUR).model_sha256
    assert len(through.seen(EdgeServes)) == 2


@pytest.mark.parametrize("bits", [64, 32])
def test_masked_sums_merge_as_well(bits: int) -> None:
    scored = {"evaluation.holdout": 0.25, "evaluation.federated_every": 2, "secagg.metrics": "squared_error"}
    masked = {**scored, "secagg.mode": "masked", "secagg.bits": bits}
    plain, through = play(train, {**FOUR, **masked}), play(edged, {**EDGED, **masked})
    assert through.model_sha256 == plain.model_sha256
    assert repr(through.seen(FederatedEvaluated)) == repr(plain.seen(FederatedEvaluated)) != "[]"


def test_an_edge_that_comes_late_is_used_from_then_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "abcd":
            join(cluster, name)
        await cluster.committed(1)
        cluster.edge("east")
        await cluster.event(EdgeServes)
        await cluster.finished()

    through = play(scenario, {**EDGED, "rounds": 8})
    assert through.model_sha256 == play(train, {**FOUR, "rounds": 8}).model_sha256


def test_an_edge_that_dials_where_learners_come_hears_at_once_where_to_go() -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(cluster.edge("east", leader=cluster.address))
        assert isinstance(error, IncompatibleError)
        assert f"{cluster.address} takes no edges: give --leader where" in str(error)

    play(scenario, EDGED)


def test_a_learner_that_dials_where_edges_come_or_an_edge_itself_hears_at_once_where_to_go() -> None:
    async def scenario(cluster: Cluster) -> None:
        for_edges, port = (cluster.run_dir / "edges").read_text(encoding="utf-8"), free_port()
        await one_edge(cluster, edges_listen=f"127.0.0.1:{port}")
        for number, place in enumerate((for_edges, f"127.0.0.1:{port}", cluster.app.edges[0])):
            error = await cluster.failed(join(cluster, f"lost-{number}", leader=place))
            assert isinstance(error, IncompatibleError)
            assert f"{place} takes no learners: give --leader where" in str(error)

    play(scenario, EDGED)
