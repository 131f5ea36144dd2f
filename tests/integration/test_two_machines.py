"""Leader and learners on machines of their own: over a switch, through address translation, slow and cut links."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits
from tests.tools.network import LEADER, LEARNER_A, LEARNER_B, Network, network

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
    settings: Settings = {**tiny, "cohort.lease_s": 3, "rounds": 7, "trust.mode": "off"}
    leader = cluster.leader(settings, f"0.0.0.0:{_PORT}", host=machines.host(LEADER))
    address = f"{machines.address(LEADER)}:{leader.address.rpartition(':')[2]}"
    a = cluster.learner(address, "--name", "a", host=machines.host(LEARNER_A))
    b = cluster.learner(address, "--name", "b", host=machines.host(LEARNER_B))
    leader.event("RoundCommitted", round=2)
    machines.cut(LEARNER_B)
    leader.event("LearnerLeft", name="b")
    machines.mend(LEARNER_B)
    for program in (leader, a, b):
        program.succeed()
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
