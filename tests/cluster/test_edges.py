"""Runs whose updates go through edges: the bits of the run without, whoever goes and whatever comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader.cli import parse
from leader.events import (
    EdgeServes,
    FederatedEvaluated,
    RoundCommitted,
    RunFinished,
    UpdateAccepted,
    UpdatesLost,
)
from learner.work.worker import Worker
from scripts.cluster import Cluster, Node
from tests.clusters import TINY, Settings, join, leaves, one_edge, play, train
from tests.tools.ports import free_port
from utils.errors import ConfigError, IncompatibleError

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


#: What edges go with one by one, by its name in docs/scaling.md.
TOGETHER: dict[str, Settings] = {
    "`delta`, float32": {},
    "`codec.up=int8`": {"codec.up": "int8"},
    "`codec.up=topk`": {"codec.up": "topk", "codec.fraction": 0.1},
    "`aggregate.weighting=fednova`": {"aggregate.weighting": "fednova", "train.momentum": 0.9},
    "`train.control_variates` (SCAFFOLD)": {
        "train.control_variates": True,
        "train.momentum": 0,
        "train.nesterov": False,
    },
    "`streaming.fragments` (DiLoCo)": {"streaming.fragments": 3, "streaming.overlap_steps": 1},
    "`model.local` (FedBN)": {"model.local": "norm.*"},
    "`evaluation.holdout`, scores": {
        "evaluation.holdout": 0.25,
        "evaluation.federated_every": 1,
        "aggregate.weighting": "fednova",
    },
}
#: What they can't go with, and the reason that is told at the start.
REFUSED: dict[str, tuple[Settings, str]] = {
    "`exchange=gradient`": (
        {"exchange": "gradient"},
        "exchange is gradient, whose pieces the leader steps with at once",
    ),
    "`buffer.size` (asynchronous)": (
        {"buffer.size": 2},
        "buffer.size is 2, so that the leader alone knows how old each is",
    ),
    "`aggregate.rule=median`, `trimmed_mean`": (
        {"aggregate.rule": "median"},
        "aggregate.rule is median, and edges merge sums alone, of which there is no median",
    ),
    "`aggregate.rule=krum` and others": (
        {"aggregate.rule": "krum"},
        "aggregate.rule is krum, which must see all of them",
    ),
    "`dp.mode=central`": ({"dp.mode": "central"}, "dp.mode is central, which clips each at the leader"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_the_bits_are_those_of_the_run_without_edges(name: str) -> None:
    settings = TOGETHER[name]
    plain = play(train, {**FOUR, **settings})
    through = play(edged, {**EDGED, **settings})
    assert through.model_sha256 == plain.model_sha256
    assert [e.loss for e in through.seen(RoundCommitted)] == [e.loss for e in plain.seen(RoundCommitted)]
    assert repr(through.seen(FederatedEvaluated)) == repr(plain.seen(FederatedEvaluated))
    assert bool(through.seen(FederatedEvaluated)) == ("evaluation.holdout" in settings)
    last = 4 if "evaluation.holdout" in settings else 0  # which bring scores alone
    assert len(through.seen(UpdateAccepted)) == 12 + last
    assert {e.name for e in through.seen(EdgeServes)} == {"east", "west"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_edges_cant_go_with_is_refused_at_the_start_with_the_reason(name: str) -> None:
    settings, why = REFUSED[name]
    flags = [flag for key, value in {**EDGED, **settings}.items() for flag in ("--set", f"{key}={value}")]
    with pytest.raises(ConfigError) as caught:
        parse(flags, {})
    (line,) = (line for line in str(caught.value).splitlines() if "edges.listen is" in line)
    assert f"updates are added in several places, but {why}: set " in line


def test_the_table_of_what_edges_go_with_is_what_is_tested() -> None:
    page = Path("docs/scaling.md").read_text(encoding="utf-8").partition("<!-- with edges -->")[2]
    table = page.partition("<!-- /with edges -->")[0].splitlines()[3:]
    rows = {
        name: (result, why) for name, result, why in (map(str.strip, row.split("|")[1:4]) for row in table)
    }
    tested = dict.fromkeys(TOGETHER, ("same bits", ""))
    tested |= {name: ("refused", why) for name, (_, why) in REFUSED.items()}
    assert {name: said for name, said in rows.items() if name in tested} == tested


def test_over_selection_counts_the_same_updates_through_edges() -> None:
    async def scenario(cluster: Cluster) -> None:
        if cluster.config.edges.listen:
            await one_edge(cluster)
        for name in "abc":
            join(cluster, name)
        Slow.may = asyncio.Event()  # so that d is the one that is too many, in each round
        late = join(cluster, "d", worker=Slow)
        await cluster.event(RunFinished)
        await late.kill()
        await cluster.finished()

    drawn: Settings = {"cohort.size": 3, "cohort.over_selection": 1.3}
    through = play(scenario, {**EDGED, **drawn})
    assert through.model_sha256 == play(scenario, {**FOUR, **drawn}).model_sha256
    assert [e.learners for e in through.seen(RoundCommitted)] == [3, 3, 3]


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


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_masked_sums_merge_as_well(bits: int) -> None:
    scored = {"evaluation.holdout": 0.25, "evaluation.federated_every": 2, "secagg.metrics": "squared_error"}
    masked = {**scored, "secagg.mode": "masked", "secagg.bits": bits}
    plain, through = play(train, {**FOUR, **masked}), play(edged, {**EDGED, **masked})
    assert through.model_sha256 == plain.model_sha256
    assert repr(through.seen(FederatedEvaluated)) == repr(plain.seen(FederatedEvaluated)) != "[]"


def test_noise_in_shares_goes_through_edges_at_the_same_price() -> None:
    shared = {"aggregate.weighting": "uniform", "model.local": "norm.*", "cohort.quorum": 0.75}
    noised: Settings = {**shared, "secagg.mode": "masked", "dp.mode": "distributed"}
    plain, through = play(train, {**FOUR, **noised}), play(edged, {**EDGED, **noised})
    spent = [[event.epsilon for event in run.seen(RoundCommitted)] for run in (plain, through)]
    assert spent[0] == spent[1]
    assert None not in spent[1]
    assert {e.name for e in through.seen(EdgeServes)} == {"east", "west"}
    assert np.isfinite(through.vector).all()


def test_an_edge_that_comes_late_is_used_from_then_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        Slow.may = asyncio.Event()
        Slow.may.set()
        for name in "abcd":
            join(cluster, name, worker=Slow)
        await cluster.committed(1)
        Slow.may.clear()
        cluster.edge("east")
        await cluster.event(EdgeServes)
        Slow.may.set()
        await cluster.finished()

    through = play(scenario, EDGED)
    assert through.model_sha256 == play(train, FOUR).model_sha256


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


def test_whose_update_was_lost_with_an_edge_and_never_came_again_was_not_in_the_round() -> None:
    async def scenario(cluster: Cluster) -> None:
        edge = await one_edge(cluster)
        nodes = {name: join(cluster, name) for name in "abc"}
        Slow.may = asyncio.Event()
        join(cluster, "d", worker=Slow)
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 3, "no updates")
        await nodes["c"].kill()
        leaves(cluster, "c")
        await edge.kill()
        assert "own-c" in (await cluster.event(UpdatesLost)).parts
        Slow.may.set()
        await cluster.finished()
        counted = {part: told.times for part, told in cluster.app.coordinator.state.history.items()}
        assert counted == {"own-a": 3, "own-b": 3, "own-d": 3}

    through = play(scenario, {**EDGED, "cohort.quorum": 0.5})
    assert [(e.learners, e.examples) for e in through.seen(RoundCommitted)] == [(3, 72)] * 3
