"""Leader and learners on machines of their own: over a switch, through address translation, slow and cut links."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, succeed
from tests.tools.network import HOME, LEADER, LEARNER_A, LEARNER_B, Network, network

_PORT = 50051


@pytest.fixture(scope="module")
def machines() -> Iterator[Network]:
    """Four machines."""
    with network() as made:
        yield made


def test_a_learner_behind_nat_whose_link_is_cut_comes_back_over_a_slow_network(
    machines: Network, cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    machines.slow(LEADER, "100mbit")
    settings: Settings = {**tiny, "cohort.lease_s": 3, "trust.dir": cluster.trust}  # secure by itself
    leader = cluster.leader(
        settings, f"0.0.0.0:{_PORT}", faults="stop@leader.selecting:3", host=machines.host(LEADER)
    )
    address = leader.address.replace("0.0.0.0", machines.address(LEADER))
    a = cluster.join(address, "a", host=machines.host(LEARNER_A))
    b = cluster.join(address, "b", host=machines.host(LEARNER_B))
    leader.frozen()
    machines.cut(LEARNER_B)
    leader.signal(signal.SIGCONT)
    leader.event("LearnerLeft", name="b")
    machines.mend(LEARNER_B)
    succeed(leader, a, b)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
    seen = [json.loads(line) for line in (cluster.trust / "audit.jsonl").read_text().splitlines()]
    came_from = {line["who"]: line["ip"] for line in seen if line["what"] == "registered"}
    assert came_from == {"a": machines.address(LEARNER_A), "b": machines.address(HOME)}  # b by its router
