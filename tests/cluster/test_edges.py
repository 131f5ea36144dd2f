"""Runs whose updates go through edges: the bits of the run without, whoever goes and whatever comes twice."""

from __future__ import annotations

import pytest

from leader.events import EdgeJoined, RoundCommitted, UpdateAccepted
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play, train

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
    assert {e.name for e in through.seen(EdgeJoined)} == {"east", "west"}
