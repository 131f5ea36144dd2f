"""Learners that are killed, frozen or cut off anywhere make no difference to the result."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.integration.harness import (
    Cluster,
    Leader,
    ProxyTo,
    Settings,
    assert_same_bits,
    lose_the_receipt,
    succeed,
)
from utils.faults import LEARNER_POINTS

DEBUG = ("--log-level", "debug")
ROUNDS = range(1, 8)


def assert_each_counted_once(leader: Leader) -> None:
    """Check that every round's sum has two updates, and that nobody else's counted."""
    counted = Counter(event["round"] for event in leader.events("UpdateAccepted"))
    assert counted == dict.fromkeys(ROUNDS, 2)


def test_a_learner_killed_at_every_point_comes_back_under_its_name(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader({**tiny, "cohort.lease_s": 8})  # of which its name is kept for a quarter
    stays = cluster.learner(leader, "--name", "a")
    for round_, point in enumerate(LEARNER_POINTS, start=1):
        killed = cluster.learner(leader, "--name", "b", faults=f"kill@{point}:{round_}")
        assert killed.wait() == -signal.SIGKILL
    succeed(cluster.learner(leader, "--name", "b"), leader, stays)
    assert leader.events("LearnerLeft") == []
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_learners_killed_at_every_point_leave_their_shard_to_another(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader({**tiny, "cohort.lease_s": 3, "data.shards": 2})
    stays = cluster.learner(leader, "--name", "a")
    leader.event("LearnerJoined", name="a")
    # Two shards: one is a's, the other goes from one to the next as they die, and comes to a in the end.
    doomed = {name: f"kill@{point}" for name, point in zip("bcdef", LEARNER_POINTS, strict=True)}
    killed = [cluster.learner(leader, "--name", name, faults=fault) for name, fault in doomed.items()]
    for learner in killed:
        assert learner.wait() == -signal.SIGKILL
    succeed(leader, stays)
    left = {event["name"]: event["reason"] for event in leader.events("LearnerLeft")}
    assert left == dict.fromkeys(doomed, "no sign of life for 3 s")
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


@pytest.mark.parametrize("point", LEARNER_POINTS)
def test_a_learner_that_sleeps_past_its_lease_comes_back_to_other_work(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, point: str
) -> None:
    leader = cluster.leader({**tiny, "cohort.lease_s": 3})
    # The one that stays waits in round 5 for the other, which would else come back to a run that is over.
    stays = cluster.learner(leader, "--name", "a", faults="stop@learner.training:5")
    sleeps = cluster.learner(leader, "--name", "b", faults=f"stop@{point}:2")
    sleeps.frozen()
    leader.event("LearnerLeft", name="b", reason="no sign of life for 3 s")
    stays.frozen()
    sleeps.signal(signal.SIGCONT)
    leader.event("LearnerJoined", name="b")
    stays.signal(signal.SIGCONT)
    succeed(leader, stays, sleeps)
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_a_learner_cut_off_at_every_point_goes_on_where_it_was(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, proxy_to: ProxyTo
) -> None:
    leader = cluster.leader(tiny)
    proxy = proxy_to(leader)
    stays = cluster.learner(leader, "--name", "a")
    faults = [f"stop@{point}:{round_}" for round_, point in enumerate(LEARNER_POINTS, start=2)]
    cut = cluster.learner(proxy.address, "--name", "b", *DEBUG, faults=",".join(faults))
    for _ in faults:
        cut.frozen()
        proxy.cut()
        cut.signal(signal.SIGCONT)
        cut.event("log", logger="utils.wire.patience", level="warning")
    succeed(leader, stays, cut)
    assert cut.output.count("registered as learner") == 1 + len(faults)
    assert leader.events("LearnerLeft") == []
    made = Counter(event["work_id"] for event in cut.events("UpdateMade"))
    assert list(made.values()) == [1] * len(ROUNDS)
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_a_download_that_is_cut_half_way_is_begun_again(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, proxy_to: ProxyTo
) -> None:
    leader = cluster.leader(tiny)
    proxy = proxy_to(leader)
    proxy.cut_after(1 << 20, "down")  # a shard is 100 kB and the model 1.7 MB
    crew = [cluster.learner(leader, "--name", "a"), cluster.learner(proxy.address, "--name", "b", *DEBUG)]
    succeed(leader, *crew)
    assert crew[1].output.count("registered as learner") == 2
    assert crew[1].output.count("received shard") == 1
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_an_upload_that_is_cut_goes_on_at_the_byte_where_it_broke(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, proxy_to: ProxyTo
) -> None:
    leader = cluster.leader(tiny)
    proxy = proxy_to(leader)
    stays = cluster.learner(leader, "--name", "a")
    cut = cluster.learner(proxy.address, "--name", "b", *DEBUG, faults="stop@learner.trained:2")
    cut.frozen()
    proxy.set_bandwidth(4e6)  # the leader must have read something when the connection is reset
    proxy.cut_after(1 << 20, "up")  # of 1.7 MB
    cut.signal(signal.SIGCONT)
    succeed(leader, stays, cut)
    [resumed] = [
        str(entry["message"])
        for entry in cut.events("log")
        if str(entry["message"]).startswith("going on with the upload at byte ")
    ]
    words = resumed.split()
    byte, total = int(words[7]), int(words[9])
    assert 0 < byte <= 1 << 20
    accepted = [event for event in leader.events("UpdateAccepted") if event["round"] == 2]
    assert sorted(event["bytes"] for event in accepted) == [total - byte, total]
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_an_update_whose_receipt_is_lost_counts_once(
    cluster: Cluster, tiny: Settings, undisturbed: Leader, proxy_to: ProxyTo
) -> None:
    leader = cluster.leader(tiny, faults="stop@leader.collected:2")
    proxy = proxy_to(leader)
    stays = cluster.learner(leader, "--name", "a")
    cut = cluster.learner(proxy.address, "--name", "b", *DEBUG, faults="stop@learner.trained:2")
    lose_the_receipt(leader, cut, proxy)
    succeed(leader, stays, cut)
    made = Counter(event["work_id"] for event in cut.events("UpdateMade"))
    assert list(made.values()) == [1] * len(ROUNDS)
    assert_each_counted_once(leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
