"""Runs whose updates and models are encoded: the same bits whatever happens, and fewer bytes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits
from tests.tools.proxy import Proxy

INT8: Settings = {"codec.up": "int8", "codec.down": "int8"}
#: Error feedback both ways, and a compressed wire.
SPARSE: Settings = {"codec.up": "topk", "codec.down": "int4", "codec.fraction": 0.05, "codec.zstd": True}
GRADIENT: Settings = {"exchange": "gradient", "train.pipeline": False}


def moved(leader: Leader) -> list[tuple[int, int]]:
    """Bytes up and down of each round."""
    lines = (json.loads(line) for line in (leader.run_dir / "metrics.jsonl").read_text().splitlines())
    return [(line["bytes_up"], line["bytes_down"]) for line in lines]


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
    for program in (resumed, *crew):
        program.succeed()
    assert_same_bits(resumed.run_dir, undisturbed.run_dir)


def test_error_feedback_survives_a_learner_that_loses_its_connection(
    cluster: Cluster, tiny: Settings
) -> None:
    settings = {**tiny, **SPARSE}
    undisturbed = cluster.train(settings)
    leader = cluster.leader(settings)
    host, _, port = leader.address.rpartition(":")
    with Proxy(host, int(port)) as proxy:
        proxy.cut_after(150_000)
        crew = [cluster.learner(leader, "--name", "a"), cluster.learner(proxy.address, "--name", "b")]
        for program in (leader, *crew):
            program.succeed()
        assert proxy.bytes_up > 150_000
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_error_feedback_survives_a_learner_that_is_killed_where_it_keeps_its_state(
    cluster: Cluster, tiny: Settings, tmp_path: Path
) -> None:
    settings = {**tiny, **SPARSE}
    undisturbed = cluster.train(settings)
    leader = cluster.leader(settings)
    state = ("--name", "b", "--state-dir", str(tmp_path / "b"))
    stays = cluster.learner(leader, "--name", "a")
    goes = cluster.learner(leader, *state, faults="kill@learner.uploaded:3")
    assert goes.wait() == -signal.SIGKILL
    comes = cluster.learner(leader, *state)
    for program in (leader, stays, comes):
        program.succeed()
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
