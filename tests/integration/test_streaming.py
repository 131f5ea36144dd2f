"""Streamed runs: processes, crashes and work begun ahead end in the bits of a simulation."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.harness import Cluster, Settings, assert_same_bits, succeed
from tests.integration.test_simulation import assert_same_run, simulate, timeless

DILOCO: Settings = {"server.optimizer": "diloco", "server.lr": 0.7, "train.local_steps": 4}
DEBUG = ("--log-level", "debug")
STREAMED: Settings = {**DILOCO, "streaming.fragments": 3, "streaming.overlap_steps": 2}


@pytest.fixture(scope="module")
def streamed(tiny: Settings) -> Settings:
    """Seven rounds of three fragments."""
    return {**tiny, **STREAMED}


@pytest.fixture(scope="module")
def simulated(lasting: Cluster, streamed: Settings) -> Path:
    """The folder of a simulation of `streamed`."""
    return simulate(lasting, streamed)


def test_processes_that_begin_ahead_end_in_the_bits_of_a_simulation(
    cluster: Cluster, streamed: Settings, simulated: Path
) -> None:
    leader = cluster.leader(streamed)
    crew = [cluster.learner(leader, "--name", name, *DEBUG) for name in ("a", "b")]
    succeed(leader, *crew)
    assert_same_run(simulated, leader.run_dir)
    for learner in crew:  # all rounds but the first, which has no fragment to wait for
        assert [event["round"] for event in learner.events("BegunAhead")] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "more",
    [
        {"codec.up": "topk", "codec.fraction": 0.1, "codec.down": "int8"},
        {"aggregate.rule": "median", "learners": 3, "cohort.size": 2},
    ],
    ids=["codecs", "median of a cohort"],
)
def test_codecs_and_robust_rules_work_on_fragments(
    cluster: Cluster, streamed: Settings, more: Settings
) -> None:
    settings = {**streamed, **more}
    real = cluster.train(settings, int(str(settings["learners"])))
    assert_same_run(simulate(cluster, settings), real.run_dir)


def test_one_fragment_taken_in_whole_and_at_once_is_diloco_without_momentum(
    cluster: Cluster, tiny: Settings
) -> None:
    steps: Settings = {**tiny, **DILOCO, "train.momentum": 0, "train.nesterov": False}
    plain = simulate(cluster, steps)
    (cluster.folder / "simulation").rename(cluster.folder / "plain")
    one: Settings = {"streaming.fragments": 1, "streaming.mix": 0}
    assert_same_bits(simulate(cluster, {**steps, **one}), plain.with_name("plain"))


def test_a_round_moves_the_bytes_of_its_fragment(cluster: Cluster, tiny: Settings, simulated: Path) -> None:
    whole = timeless(simulate(cluster, {**tiny, **DILOCO}))
    parts = timeless(simulated)
    for name in ("bytes_up", "bytes_down"):
        turns = [
            line[name] for line in parts[3:6]
        ]  # the first download is of the whole model, and data come too
        assert max(turns) < 0.37 * whole[3][name]
        assert sum(turns) == pytest.approx(whole[3][name], rel=0.03)


def test_a_leader_that_is_killed_goes_on_to_the_same_bits(
    cluster: Cluster, streamed: Settings, simulated: Path
) -> None:
    leader = cluster.leader(streamed, faults="kill@leader.checkpointing:4")
    crew = [cluster.learner(leader, "--name", name) for name in ("a", "b")]
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    succeed(resumed, *crew)
    assert [event["round"] for event in resumed.events("RoundCommitted")] == [4, 5, 6, 7]
    assert_same_bits(resumed.run_dir, simulated)


def test_the_part_of_a_learner_that_is_killed_goes_on_from_the_leaders_model(
    cluster: Cluster, streamed: Settings, simulated: Path
) -> None:
    leader = cluster.leader({**streamed, "cohort.lease_s": 3})
    stays = cluster.learner(leader, "--name", "a", *DEBUG)
    leaves = cluster.learner(leader, "--name", "b", faults="kill@learner.uploaded:3")
    assert leaves.wait() == -signal.SIGKILL
    succeed(leader, stays)
    assert [line["learners"] for line in timeless(leader.run_dir)] == [2, 2, 2, 1, 1, 1, 1]
    assert timeless(leader.run_dir)[:3] == timeless(simulated)[:3]
    made = {(event["round"], event["part"]) for event in stays.events("BegunAhead")}
    assert {round_ for round_, _ in made} == {2, 3, 4, 5, 6, 7}


def test_a_learner_with_a_state_folder_comes_back_to_the_same_bits(
    cluster: Cluster, streamed: Settings, simulated: Path
) -> None:
    leader = cluster.leader({**streamed, "cohort.lease_s": 8})  # its name is kept for 2 s
    stays = cluster.learner(leader, "--name", "a")
    folder = str(cluster.folder / "state")
    leaves = cluster.learner(leader, "--name", "b", "--state-dir", folder, faults="kill@learner.training:4")
    assert leaves.wait() == -signal.SIGKILL
    back = cluster.learner(leader, "--name", "b", "--state-dir", folder)
    succeed(leader, stays, back)
    assert_same_bits(leader.run_dir, simulated)
