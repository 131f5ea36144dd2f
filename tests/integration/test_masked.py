"""Masked runs in which leader and learners are killed anywhere have the bits of one without kills or masks."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from tests.clusters import TINY
from tests.integration.harness import (
    Cluster,
    Leader,
    Program,
    Settings,
    assert_same_bits,
    cluster_in,
    noise,
    succeed,
)
from tests.integration.test_simulation import simulate

ROUNDS = 9
PLAIN: Settings = {
    **TINY,
    "learners": 4,
    "rounds": ROUNDS,
    "cohort.quorum": 0.75,
    "cohort.lease_s": 8,  # of which a learner's name is kept for a quarter
    "limits.chunk_bytes": 1024,  # of which a masked update is more than one
}
MASKED: Settings = {**PLAIN, "secagg.mode": "masked", "secagg.bits": 64}
#: In the order of a round: before any upload is in, with all of them in, and between commit and round.
LEADER_KILLS = (
    "leader.selecting",
    "leader.uploading",
    "leader.pending",
    "leader.revealed",
    "leader.collected",
    "leader.stepping",
    "leader.checkpointing",
    "leader.committed",
)
SUM_IS_KEPT = LEADER_KILLS[2:7]
#: In the order of a round: the learner's update is not in, then it is.
LOST = (
    "learner.advertised",
    "learner.shared",
    "learner.training",
    "learner.trained",
    "learner.uploading",
)
IN_THE_SUM = ("learner.uploaded", "learner.revealing")


def learner(cluster: Cluster, leader: Leader, name: str, faults: str = "") -> Program:
    """A learner with data of its own that keeps its vow over restarts."""
    flags = ["--state-dir", str(cluster.folder / f"state-{name}"), "--log-level", "debug"]
    return cluster.join(leader, name, *noise(name), *flags, faults=faults)


def vows(cluster: Cluster, names: Iterable[str]) -> dict[str, list[Mapping[str, str]]]:
    """What each learner has revealed, by round: digests of survivors by work id."""
    told: dict[str, list[Mapping[str, str]]] = {}
    for name in names:
        made = json.loads((cluster.folder / f"state-{name}" / "vows.json").read_bytes())
        for place, revealed in made.items():
            told.setdefault(place, []).append(revealed)
    return told


def assert_in_one_sum_each(cluster: Cluster, names: Iterable[str], rounds: int) -> None:
    """Check that all that were asked in a round have revealed one update each, in the same sum."""
    told = vows(cluster, names)
    assert len(told) == rounds
    for revealed in told.values():
        assert [len(work) for work in revealed] == [1] * len(revealed)
        assert len({digest for work in revealed for digest in work.values()}) == 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """The run without masks and kills."""
    with cluster_in(tmp_path_factory.mktemp("plain")) as cluster:
        leader = cluster.leader(PLAIN, secure=True)
        succeed(leader, *[learner(cluster, leader, name) for name in "abcd"])
        return leader


def test_a_leader_killed_at_every_point_unmasks_the_same_sums(cluster: Cluster, plain: Leader) -> None:
    kills = dict(zip(LEADER_KILLS, range(1, ROUNDS + 1), strict=False))  # one in each round
    faults = [f"kill@{point}:{round_}" for point, round_ in kills.items()]
    leader = cluster.leader(MASKED, faults=faults[0], secure=True)
    crew = [learner(cluster, leader, name) for name in "abcd"]
    resumed = cluster.resumed_each_time(leader, [*faults[1:], ""])
    for (point, round_), leader in zip(kills.items(), resumed, strict=True):
        kept = round_ if point == "leader.committed" else round_ - 1
        assert leader.started["resumed_round"] == kept
    succeed(leader, *crew)
    assert_same_bits(leader.run_dir, plain.run_dir)
    for one in crew:
        made = Counter(event["work_id"] for event in one.events("UpdateMade"))
        assert list(made.values()) == [1] * ROUNDS
        for point in SUM_IS_KEPT:
            assert f"round {kills[point]}: sending the update again" not in one.output
    assert_in_one_sum_each(cluster, "abcd", ROUNDS)
    told = leader.metrics
    assert [line["round"] for line in told] == list(range(1, ROUNDS + 1))
    assert {(line["learners"], line["examples"]) for line in told} == {(4, 96)}


def test_a_signed_run_whose_leader_and_learners_are_killed_has_the_bits_of_one_without_kills_signatures_and_masks(
    cluster: Cluster, plain: Leader
) -> None:
    """What was agreed on before the leader ended is agreed on again; who is gone then is in the sum all the same."""
    leader_faults = [
        f"kill@{point}" for point in ("leader.pending:2", "leader.revealed:3", "leader.stepping:4")
    ]
    leader = cluster.leader({**MASKED, "secagg.mode": "signed"}, faults=leader_faults[0], secure=True)

    def signs(name: str, faults: str = "") -> Program:
        state = ["--state-dir", str(cluster.folder / f"state-{name}"), "--secagg", "signed"]
        return cluster.join(leader, name, *noise(name), *state, faults=faults)

    crew = [signs(name) for name in "abc"]
    killed = signs("d", "kill@learner.agreeing:6")
    *_, leader = cluster.resumed_each_time(leader, (*leader_faults[1:], ""))
    for point in ("learner.revealing:7", ""):
        assert killed.wait() == -signal.SIGKILL
        killed = signs("d", point and f"kill@{point}")
    succeed(leader, *crew, killed)
    assert_same_bits(leader.run_dir, plain.run_dir)
    assert_in_one_sum_each(cluster, "abcd", ROUNDS)
    assert {line["learners"] for line in leader.metrics} == {4}
    assert leader.summary["privacy"] == {"mode": "signed", "least": 3}


@pytest.fixture(scope="module")
def without_d(tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """The run without masks in which d comes for the rounds after those in which it will be lost."""
    with cluster_in(tmp_path_factory.mktemp("without")) as cluster:
        leader = cluster.leader({**PLAIN, "learners": 3}, secure=True)
        waits = learner(cluster, leader, "a", faults=f"stop@learner.training:{len(LOST)}")
        others = [learner(cluster, leader, name) for name in "bc"]
        waits.frozen()
        late = learner(cluster, leader, "d")
        leader.event("log", message="session of d is open")  # before that a newcomer is not waited for
        waits.signal(signal.SIGCONT)
        succeed(leader, waits, *others, late)
        return leader


def test_a_learner_killed_at_every_point_is_in_the_sum_if_its_update_was(
    cluster: Cluster, without_d: Leader
) -> None:
    leader = cluster.leader(MASKED, secure=True)
    crew = [learner(cluster, leader, name) for name in "abc"]
    for round_, point in enumerate(LOST + IN_THE_SUM, 1):
        killed = learner(cluster, leader, "d", faults=f"kill@{point}:{round_}")
        assert killed.wait() == -signal.SIGKILL
    succeed(learner(cluster, leader, "d"), leader, *crew)
    assert [line["learners"] for line in leader.metrics] == [3] * len(LOST) + [4] * (ROUNDS - len(LOST))
    assert leader.events("RoundAbandoned") == leader.events("LearnerLeft") == []
    assert_same_bits(leader.run_dir, without_d.run_dir)
    assert_in_one_sum_each(cluster, "abcd", ROUNDS)


def test_processes_whose_leader_is_killed_end_in_the_bits_of_a_simulation(cluster: Cluster) -> None:
    """With 32 bits, where saturation and rounding are the ring's, and others' than those of the run without masks."""
    settings = {**MASKED, "rounds": 4, "secagg.bits": 32, "learners": 3, "cohort.quorum": 1}
    parts = cluster.folder / "parts"
    parts.mkdir()
    for name in "abc":
        (parts / f"noise-{name}").touch()
    leader = cluster.leader(settings, faults="kill@leader.pending:1")
    crew = [
        cluster.learner(leader, "--name", f"learner-{n:05d}", *noise(name)) for n, name in enumerate("abc")
    ]
    *_, leader = cluster.resumed_each_time(leader, ("kill@leader.revealed:3", ""))
    succeed(leader, *crew)
    assert_same_bits(simulate(cluster, settings, "--parts", str(parts)), leader.run_dir)


def test_groups_whose_leader_is_killed_count_once_each_and_end_in_the_bits_of_a_simulation(
    cluster: Cluster,
) -> None:
    """Asynchronous rounds; all four are one group, so that it is known in advance who is in which buffer."""
    points = ("pending", "revealed", "unmasked", "collected", "committed")
    rounds = len(points) + 1
    settings = {**MASKED, "rounds": rounds, "secagg.bits": 32, "cohort.quorum": 1, "buffer.size": 4}
    parts = cluster.folder / "parts"
    parts.mkdir()
    for name in "abcd":
        (parts / f"noise-{name}").touch()
    faults = [f"kill@leader.{point}:{round_}" for round_, point in enumerate(points, 1)]
    leader = cluster.leader(settings, faults=faults[0])
    names = [f"learner-{n:05d}" for n in range(4)]
    crew = [
        cluster.learner(
            leader, "--name", name, *noise(data), "--state-dir", str(cluster.folder / f"state-{name}")
        )
        for name, data in zip(names, "abcd", strict=True)
    ]
    *_, leader = cluster.resumed_each_time(leader, (*faults[1:], ""))
    succeed(leader, *crew)
    assert_same_bits(simulate(cluster, settings, "--parts", str(parts)), leader.run_dir)
    assert_in_one_sum_each(cluster, names, rounds)
    assert [line["learners"] for line in leader.metrics] == [4] * rounds
    assert not list(leader.run_dir.glob("pending-sum-*"))


def test_what_16_bits_round_away_is_fed_back_over_kills_as_in_a_simulation(cluster: Cluster) -> None:
    """d is killed twice when its update is in, the leader before and after the step; range and memory come back."""
    settings = {**MASKED, "rounds": 4, "secagg.bits": 16}
    parts = cluster.folder / "parts"
    parts.mkdir()
    for name in "abcd":
        (parts / f"noise-{name}").touch()

    def start(number: int, fault: str = "") -> Program:
        state = ["--state-dir", str(cluster.folder / f"state-{number}")]
        return cluster.join(leader, f"learner-{number:05d}", *noise("abcd"[number]), *state, faults=fault)

    leader = cluster.leader(settings, faults="kill@leader.pending:1", secure=True)
    crew = [start(number) for number in range(3)]
    killed = start(3, "kill@learner.uploaded:2")
    assert leader.wait() == -signal.SIGKILL
    leader = cluster.resumed(leader, faults="kill@leader.committed:3")
    for fault in ("kill@learner.uploaded:3", ""):
        assert killed.wait() == -signal.SIGKILL
        killed = start(3, fault)
    assert leader.wait() == -signal.SIGKILL
    leader = cluster.resumed(leader)
    succeed(leader, *crew, killed)
    assert [line["learners"] for line in leader.metrics] == [4] * 4
    assert_same_bits(simulate(cluster, settings, "--parts", str(parts)), leader.run_dir)
