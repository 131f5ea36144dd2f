"""A run through a real gateway: learners join there, and it is killed in mid-run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.harness import Cluster, Leader, assert_same_bits, succeed
from tests.tools.envoy import Envoy, needs_envoy
from tests.tools.ports import closed_address

pytestmark = needs_envoy


@contextmanager
def gateway_to(leader: Leader, cluster: Cluster) -> Iterator[Envoy]:
    """The gateway of the documentation, in front of this leader."""
    address, folder = closed_address(), cluster.folder / "edge"
    flags = ["--leader", leader.address, "--listen", address, "--out", str(folder)]
    cluster.operate("gateway", "edge", *flags)
    with Envoy(folder, address) as envoy:
        yield envoy


@pytest.mark.parametrize(
    ("settings", "reference"), [("tiny", "undisturbed"), ("gradient", "undisturbed_gradient")]
)
def test_a_gateway_that_is_killed_and_comes_back_changes_no_bit(
    cluster: Cluster, request: pytest.FixtureRequest, settings: str, reference: str
) -> None:
    plain: Leader = request.getfixturevalue(reference)
    leader = cluster.leader({"learners": 2, **request.getfixturevalue(settings)}, secure=True)
    with gateway_to(leader, cluster) as envoy:
        waits = cluster.join(envoy.address, "a", faults="stop@learner.training:2,stop@learner.training:3")
        learners = [waits, cluster.join(envoy.address, "b")]
        for _ in range(2):  # in the middle of a round
            waits.frozen()
            envoy.kill()
            envoy.start()
            waits.signal(signal.SIGCONT)
        succeed(*learners, leader)
    assert_same_bits(leader.run_dir, plain.run_dir)
    assert sorted(event["name"] for event in leader.events("LearnerJoined")) == ["a", "b"]
    # An update whose answer went with the gateway is asked for once more.
    assert {event["kind"] for event in leader.events("CallRefused")} <= {"DuplicateUpdateError"}
