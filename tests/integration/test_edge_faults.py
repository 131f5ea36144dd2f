"""Edges and leaders of edges that are killed or frozen anywhere make no difference to the result."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable

import pytest

from learner.wire.edges import ranked
from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, noise, succeed
from tests.tools.ports import free_port
from utils.faults import EDGE_POINTS, TREE_POINTS

NAMES = "abcd"
GATED = "d"  # stops in training in every even round, until edges are there; its next order names them
LEADER_KILLS = (*TREE_POINTS, "leader.collected", "leader.checkpointing", "leader.committed")
#: Where edges of one round sleep: so many at a time, while learners have yet others to go to.
ASLEEP = (EDGE_POINTS[:3], EDGE_POINTS[3:5], EDGE_POINTS[5:])
ROUNDS = range(1, 2 * len(EDGE_POINTS) + 3)
ODD = range(3, len(ROUNDS), 2)
FOUR: Settings = {
    **TINY,
    "learners": len(NAMES),
    "rounds": len(ROUNDS),
    "codec.up": "int8",
    "cohort.lease_s": 5,
}


@pytest.fixture(scope="module")
def alone(lasting: Cluster) -> Leader:
    """A whole run without edges in which nothing went wrong."""
    leader = lasting.leader(FOUR)
    succeed(leader, *(lasting.learner(leader, "--name", name, *noise(name)) for name in NAMES))
    return leader


def places(count: int, *others: str) -> list[str]:
    """HOST:PORT of so many edges, each of which a learner asks before all these others."""
    while True:
        some = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        firsts = {ranked(name, (*some, *others))[0] for name in NAMES}
        if len(firsts.intersection(some)) == count:
            return some


class Tree:
    """A leader, an edge that stays (west) and others that don't (east), and four learners."""

    def __init__(self, cluster: Cluster, gates: Iterable[int], faults: str = "") -> None:
        self._cluster = cluster
        self._numbers = itertools.count(1)
        self._edges_listen = f"127.0.0.1:{free_port()}"
        self.leader = cluster.leader({**FOUR, "edges.listen": self._edges_listen}, faults=faults)
        assert self.leader.address
        (self._west_at,) = places(1)
        self.west = self._edge("west", self._west_at)
        self.leader.event("EdgeServes", name="west")
        stops = ",".join(f"stop@learner.training:{round_}" for round_ in gates)
        self.crew = {name: self._learner(name, stops if name == GATED else "") for name in NAMES}

    def _learner(self, name: str, faults: str) -> Program:
        return self._cluster.learner(self.leader, "--name", name, *noise(name), faults=faults)

    def _edge(self, name: str, at: str, faults: str = "") -> Program:
        given = ["--leader", self._edges_listen, "--listen", at, "--name", name]
        return self._cluster.program("edge", ["leader.edge", *given, "--log-format", "json"], faults)

    def easts(self, *faults: str) -> dict[str, Program]:
        """Other edges by name, where nobody has met one that failed; they serve when the gate opens."""
        self.crew[GATED].frozen()
        edges = {}
        for at, fault in zip(places(len(faults), self._west_at), faults, strict=True):
            name = f"east-{next(self._numbers)}"
            edges[name] = self._edge(name, at, fault)
        self.await_all("EdgeServes", edges)
        self.crew[GATED].signal(signal.SIGCONT)
        return edges

    def east(self, fault: str = "") -> Program:
        """One such edge."""
        (edge,) = self.easts(fault).values()
        return edge

    def await_all(self, event: str, edges: Iterable[str]) -> None:
        """Wait until the leader has told this of each of these edges."""
        awaited = set(edges)
        while awaited:
            awaited.discard(self.leader.event(event)["name"])

    def open_for(self, edges: int) -> None:
        """Open the gate once so many edges are back."""
        self.crew[GATED].frozen()
        for _ in range(edges):
            self.leader.event("EdgeServes")
        self.crew[GATED].signal(signal.SIGCONT)

    def finish(self, alone: Leader, *edges: Program) -> None:
        """All end as they should, with the bits of the run without edges and faults."""
        succeed(self.leader, self.west, *edges, *self.crew.values())
        assert_same_bits(self.leader.run_dir, alone.run_dir)
        last = {event["round"]: event["learners"] for event in self.leader.events("RoundCommitted")}
        assert set(last.values()) == {len(NAMES)}


def test_an_edge_killed_at_every_point_loses_nothing(cluster: Cluster, alone: Leader) -> None:
    tree = Tree(cluster, [round_ - 1 for round_ in ODD])
    for point, round_ in zip(EDGE_POINTS, ODD, strict=True):
        assert tree.east(f"kill@{point}:{round_}").wait() == -signal.SIGKILL, point
    tree.finish(alone)


def test_edges_that_sleep_past_their_lease_at_any_point_harm_nothing(cluster: Cluster, alone: Leader) -> None:
    tree = Tree(cluster, [round_ - 1 for round_ in ODD[: len(ASLEEP) + 1]])
    for points, round_ in zip(ASLEEP, ODD, strict=False):
        easts = tree.easts(*(f"stop@{point}:{round_}" for point in points))
        for east in easts.values():
            east.frozen()
        tree.await_all("EdgeLeft", easts)
        for east in easts.values():
            east.signal(signal.SIGCONT)
        tree.await_all("EdgeServes", easts)
        for point, east in zip(points, easts.values(), strict=True):
            east.signal(signal.SIGTERM)
            assert east.wait() == 128 + signal.SIGTERM, point
    tree.open_for(0)
    tree.finish(alone)


def test_a_leader_of_edges_killed_at_every_point_loses_nothing(cluster: Cluster, alone: Leader) -> None:
    faults = [f"kill@{point}:{round_}" for point, round_ in zip(LEADER_KILLS, ODD, strict=False)]
    tree, edges = Tree(cluster, [round_ - 1 for round_ in ODD[: len(faults) + 1]], faults[0]), []
    for fault in [*faults[1:], ""]:
        edges.append(tree.east())
        assert tree.leader.wait() == -signal.SIGKILL
        tree.leader = cluster.resumed(tree.leader, faults=fault)
        assert tree.leader.address
    tree.open_for(1 + len(edges))
    tree.finish(alone, *edges)
