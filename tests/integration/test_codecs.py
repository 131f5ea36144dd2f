"""Runs whose updates and models are encoded: the same bits whatever happens, and fewer bytes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.harness import Cluster, Leader, ProxyTo, Settings, assert_same_bits, succeed

INT8: Settings = {"codec.up": "int8", "codec.down": "int8"}
#: Error feedback both ways, and a compressed wire.
SPARSE: Settings = {"codec.up": "topk", "codec.down": "int4", "codec.fraction": 0.05, "codec.zstd": True}
GRADIENT: Settings = {"exchange": "gradient", "train.pipeline": False}


def moved(leader: Leader) -> list[tuple[int, int]]:
    """Bytes up and down of each round."""
    return [(line["bytes_up"], line["bytes_down"]) for line in leader.metrics]


@pytest.mark.parametrize("exchange", [{}, GRADIENT], ids=["delta", "gradient"])
def test_int8_both_ways_takes_a_quarter_of_the_bytes(
    cluster: Cluster, tiny: Settings, exchange: Settings
) -> None:
    leader = cluster.train({**tiny, **exchange, **INT8, "model.name": "resnet20", "model.norm": "group"})
    float32 = 2 * 4 * 272_474 * (1 if not exchange else 2)  # two learners; two exchanges a round
    for up, down in moved(leader)[1:]:  # the first round brings shards and the whole model
        assert 0.25 < up / float32 < 0.27
        assert 0.25 < down / float32 < 0.27


@pytest.mark.parametrize("exchange", [{}, GRADIENT], ids=["delta", "gradient"])
def test_error_feedback_survives_a_leader_that_is_killed(
    cluster: Cluster, tiny: Settings, exchange: Settings
) -> None:
    settings = {**tiny, **exchange, **SPARSE}
    undisturbed = cluster.train(settings)
    leader = cluster.leader(settings, faults="kill@leader.stepping:4")
    crew = [cluster.learner(leader, "--name", name) for name in "ab"]
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    succeed(resumed, *crew)
    assert_same_bits(resumed.run_dir, undisturbed.run_dir)


def test_error_feedback_survives_a_learner_that_loses_its_connection(
    cluster: Cluster, tiny: Settings, proxy_to: ProxyTo
) -> None:
    settings = {**tiny, **SPARSE}
    undisturbed = cluster.train(settings)
    leader = cluster.leader(settings)
    proxy = proxy_to(leader)
    proxy.cut_after(150_000)
    succeed(leader, cluster.learner(leader, "--name", "a"), cluster.learner(proxy.address, "--name", "b"))
    assert proxy.bytes_up > 150_000
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_error_feedback_survives_a_learner_that_is_killed_where_it_keeps_its_state(
    cluster: Cluster, tiny: Settings, tmp_path: Path
) -> None:
    settings = {**tiny, **SPARSE}
    undisturbed = cluster.train(settings)
    leader = cluster.leader(settings, secure=True)  # where nobody waits for the name of who was killed
    state = ("b", "--state-dir", str(tmp_path / "b"))
    stays = cluster.join(leader, "a")
    goes = cluster.join(leader, *state, faults="kill@learner.uploaded:3")
    assert goes.wait() == -signal.SIGKILL
    comes = cluster.join(leader, *state)
    succeed(leader, stays, comes)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
