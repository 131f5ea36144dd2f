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
DOOMED = dict(zip("bcdef", LEARNER_POINTS, strict=True))  # who fails where, in one run
ROUNDS = range(1, 8)


@pytest.fixture(scope="module")
def crowd(tiny: Settings) -> Settings:
    """Four rounds of six shards: one for a learner that stays, and one for each that fails somewhere."""
    return {**tiny, "learners": 1 + len(DOOMED), "data.shards": 1 + len(DOOMED), "rounds": 4}


@pytest.fixture(scope="module")
def undisturbed_crowd(crowd: Settings, lasting: Cluster) -> Leader:
    """A whole run of `crowd` in which nothing went wrong."""
    return lasting.train({**crowd, "learners": 2})


def assert_each_counted_once(leader: Leader, rounds: int = len(ROUNDS), updates: int = 2) -> None:
    """Check that every round's sum has so many updates, and that nobody else's counted."""
    counted = Counter(event["round"] for event in leader.events("UpdateAccepted"))
    assert counted == dict.fromkeys(range(1, rounds + 1), updates)


def assert_undisturbed(leader: Leader, undisturbed_crowd: Leader) -> None:
    """Check that a run of `crowd` counted each update once and ended in the bits of one without faults."""
    assert_each_counted_once(leader, 4, 1 + len(DOOMED))
    assert_same_bits(leader.run_dir, undisturbed_crowd.run_dir)


def await_all(leader: Leader, event: str, **fields: object) -> None:
    """Wait until there was such an event of each that is doomed; the one that stays may have one too."""
    awaited = set(DOOMED)
    while awaited:
        awaited.discard(leader.event(event, **fields)["name"])


def test_learners_killed_at_every_point_come_back_under_their_names(
    cluster: Cluster, crowd: Settings, undisturbed_crowd: Leader
) -> None:
    leader = cluster.leader({**crowd, "cohort.lease_s": 8})  # of which their names are kept for a quarter
    stays = cluster.learner(leader, "--name", "a")
    killed = {
        name: cluster.learner(leader, "--name", name, faults=f"kill@{at}:2") for name, at in DOOMED.items()
    }
    back = []
    for name, learner in killed.items():
        assert learner.wait() == -signal.SIGKILL
        back.append(cluster.learner(leader, "--name", name))
    succeed(leader, stays, *back)
    assert leader.events("LearnerLeft") == []
    assert_undisturbed(leader, undisturbed_crowd)


def test_learners_killed_at_every_point_leave_their_shards_to_another(
    cluster: Cluster, crowd: Settings, undisturbed_crowd: Leader
) -> None:
    leader = cluster.leader({**crowd, "cohort.lease_s": 3})
    stays = cluster.learner(leader, "--name", "a")
    killed = [cluster.learner(leader, "--name", name, faults=f"kill@{at}") for name, at in DOOMED.items()]
    for learner in killed:
        assert learner.wait() == -signal.SIGKILL
    succeed(leader, stays)
    left = {event["name"]: event["reason"] for event in leader.events("LearnerLeft")}
    assert left == dict.fromkeys(DOOMED, "no sign of life for 3 s")
    assert_undisturbed(leader, undisturbed_crowd)


def test_learners_that_sleep_past_their_lease_at_every_point_come_back_to_other_work(
    cluster: Cluster, crowd: Settings, undisturbed_crowd: Leader
) -> None:
    leader = cluster.leader({**crowd, "cohort.lease_s": 3})
    # The one that stays waits in round 3 for the others, which would else come back to a run that is over.
    stays = cluster.learner(leader, "--name", "a", faults="stop@learner.training:3")
    sleep = [cluster.learner(leader, "--name", name, faults=f"stop@{at}:2") for name, at in DOOMED.items()]
    for learner in sleep:
        learner.frozen()
    await_all(leader, "LearnerLeft", reason="no sign of life for 3 s")
    for learner in sleep:
        learner.signal(signal.SIGCONT)
    await_all(leader, "LearnerJoined")
    stays.frozen()
    stays.signal(signal.SIGCONT)
    succeed(leader, stays, *sleep)
    assert_undisturbed(leader, undisturbed_crowd)


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
    # No more than a window is on its way: the leader must have read something when the connection is reset.
    leader = cluster.leader({**tiny, "limits.window_bytes": 128 << 10})
    proxy = proxy_to(leader)
    stays = cluster.learner(leader, "--name", "a")
    cut = cluster.learner(proxy.address, "--name", "b", *DEBUG, faults="stop@learner.trained:2")
    cut.frozen()
    proxy.cut_after(1 << 20, "up")  # of 1.7 MB
    cut.signal(signal.SIGCONT)
    cut.event("log", logger="utils.wire.patience", level="warning")
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
