"""Every update counts at most once, and only from a learner that the leader knows."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from protos import leader_pb2, leader_pb2_grpc
from tests.integration.harness import TIMEOUT_S, Cluster, Leader, Settings, assert_same_bits, cluster_in

RESENDING = "tests.integration.resending_learner"
FORGED = b"sixteen made up."


def test_an_update_that_is_sent_too_often_counts_once(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny)
    resends = cluster.learner(leader, "--name", "b", module=RESENDING)
    waits = cluster.learner(leader, "--name", "a", faults="stop@learner.trained:3")
    waits.frozen()
    again = resends.event("SentAgain", what="counted", round=3)
    waits.signal(signal.SIGCONT)
    for program in (leader, resends, waits):
        program.succeed()
        assert "Traceback" not in program.output
    assert again["refusal"] == "DuplicateUpdateError"
    assert re.fullmatch(r"update for shard-0000[01] is already counted in round 3, step 0", again["message"])
    answers = resends.events("SentAgain")
    late = {event["round"]: event for event in answers if event["what"] == "before"}
    assert list(late) == [1, 2, 3, 4, 5, 6]
    for round_, event in late.items():
        assert event["refusal"] == "LateUpdateError"
        assert event["message"] == (
            f"work of round {round_}, step 0 is no longer open (round {round_ + 1}, step 0 is); wait for new work"
        )
    assert {event["refusal"] for event in answers} == {"DuplicateUpdateError", "LateUpdateError"}
    counted = Counter(event["round"] for event in leader.events("UpdateAccepted"))
    assert counted == dict.fromkeys(range(1, 8), 2)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


def test_of_two_learners_with_one_name_the_second_waits_until_the_first_is_dead(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny)
    other = cluster.learner(leader, "--name", "a")
    first = cluster.learner(leader, "--name", "twin", faults="stop@learner.trained:2")
    first.frozen()
    second = cluster.learner(leader, "--name", "twin")
    refused = second.event("log", level="warning")
    assert "a learner named 'twin' is connected already" in refused["message"]
    first.kill()
    for program in (leader, other, second):
        program.succeed()
        assert "Traceback" not in program.output
    ids = {event["learner_id"] for event in leader.events("UpdateAccepted")}
    assert len(ids) == 2
    assert leader.events("LearnerLeft") == []
    assert_same_bits(leader.run_dir, undisturbed.run_dir)


@pytest.fixture(scope="module")
def waiting(tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leader]:
    """A leader that waits for its learners."""
    with cluster_in(tmp_path_factory.mktemp("waiting")) as cluster:
        yield cluster.leader(tiny)


Stub = leader_pb2_grpc.LeaderServiceStub
CALLS: dict[str, Callable[[Stub], Any]] = {
    "AccumulateGradients": lambda stub: stub.AccumulateGradients(
        iter([leader_pb2.GradientData(header=leader_pb2.UpdateHeader(token=FORGED, work_id="w"))]),
        timeout=TIMEOUT_S,
    ),
    "GetData": lambda stub: next(
        stub.GetData(leader_pb2.LearnerDataRequest(token=FORGED, shard=0), timeout=TIMEOUT_S)
    ),
    "GetUpload": lambda stub: stub.GetUpload(leader_pb2.UploadRequest(token=FORGED), timeout=TIMEOUT_S),
    "GetWork": lambda stub: stub.GetWork(leader_pb2.WorkRequest(token=FORGED), timeout=TIMEOUT_S),
    "Session": lambda stub: next(
        stub.Session(
            iter([leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=FORGED))]), timeout=TIMEOUT_S
        )
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_forged_token_opens_nothing(waiting: Leader, method: str) -> None:
    with grpc.insecure_channel(waiting.address) as channel, pytest.raises(grpc.RpcError) as refusal:
        CALLS[method](leader_pb2_grpc.LeaderServiceStub(channel))
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refusal.value.details() == "leader: unknown session token; register again"
    refused = waiting.event("CallRefused", method=method)
    assert refused["kind"] == "UnknownLearnerError"
    assert refused["learner_id"] is None
