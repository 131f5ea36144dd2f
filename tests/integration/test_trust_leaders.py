"""The CA outlives its leader: one that is killed comes back to learners that know it, and several may share it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc import aio

from protos import learner_pb2, learner_pb2_grpc
from tests.integration.audits import told
from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, succeed
from tests.leader.trust.fleet import Fleet, connect, watch
from tests.tools.ports import closed_address
from utils.trust.credentials import Credentials
from utils.trust.names import LEADER, Identity, learner_tls_name

TIMEOUT_S = 20.0


def leader_of_another_ca(folder: Path, roots: bytes) -> Credentials:
    """A leader as good as ours, of a CA that is not ours."""
    other = Fleet(folder)
    shown = other.signed(Identity(other.authority.fleet, LEADER, LEADER))
    return Credentials(shown.key, shown.certificate, roots)


async def call_learner(address: str, name: str, who: Credentials | None) -> grpc.StatusCode:
    """What a learner that serves at `address` answers to whoever would end its run."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.ssl_target_name_override", learner_tls_name(name)),
    ]
    secure = who and aio.secure_channel(address, who.for_channel(), options)
    async with secure or aio.insecure_channel(address) as channel:
        call = learner_pb2_grpc.LearnerServiceStub(channel).StopTraining(
            learner_pb2.StopNotice(), timeout=TIMEOUT_S
        )
        code: grpc.StatusCode = await call.code()
        return code


def test_a_killed_leader_comes_back_with_its_ca_and_dials_who_serves_it_alone(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    soon_missed: Settings = {**tiny, "cohort.lease_s": 2}  # by a learner that is called and does not call
    leader = cluster.leader(soon_missed, secure=True, faults="kill@leader.collected:3")
    serves = closed_address()
    crew = [cluster.join(leader, "a", "--network-addr", serves), cluster.join(leader, "b")]
    assert leader.wait() == -signal.SIGKILL
    ca = (cluster.trust / "ca.pem").read_bytes()

    fleet = Fleet(cluster.trust)
    strangers: Mapping[str, Credentials | None] = {
        "another learner": fleet.admit("eve", serves=True),
        "an admin": fleet.admit("root", "admin"),
        "another CA": leader_of_another_ca(cluster.folder / "other", fleet.roots),
        "a token": fleet.door(),
        "nobody": None,
    }
    answers = {who: asyncio.run(call_learner(serves, "a", held)) for who, held in strangers.items()}
    refused, unheard = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
    assert answers == {
        "another learner": refused,
        "an admin": refused,
        "another CA": unheard,
        "a token": unheard,
        "nobody": unheard,
    }

    resumed = cluster.resumed(leader, "--set", "cohort.lease_s=20")
    succeed(resumed, *crew)
    joined = {event["name"]: event["control"] for event in resumed.events("LearnerJoined")}
    assert joined == {"a": "dialled", "b": "session"}
    assert (cluster.trust / "ca.pem").read_bytes() == ca
    audit = told(cluster.trust)
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == 1
    assert audit["start", ""] == 2
    assert_same_bits(resumed.run_dir, undisturbed.run_dir)


async def watch_both(leaders: list[Leader], who: Credentials, cluster: Cluster) -> list[str | None]:
    """Why the streams that `who` has at both leaders end when it is revoked."""
    async with connect(leaders[0].address, who) as one, connect(leaders[1].address, who) as other:
        calls = [watch(channel, TIMEOUT_S) for channel in (one, other)]
        for call in calls:
            await call.read()
        await asyncio.to_thread(cluster.operate, "revoke", "eve")
        assert [await call.code() for call in calls] == [grpc.StatusCode.PERMISSION_DENIED] * 2
        return [await call.details() for call in calls]


def test_two_leaders_share_one_ca_and_whoever_joined_one_works_for_both(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    # They race to make the CA.
    leaders = [cluster.leader({**tiny, "rounds": rounds}, secure=True) for rounds in (1, tiny["rounds"])]
    assert leaders[0].address != leaders[1].address
    reasons = asyncio.run(watch_both(leaders, Fleet(cluster.trust).admit("eve"), cluster))
    assert reasons == ["leader: eve was revoked; ask the leader's operator"] * 2
    for leader in leaders:
        crew = [cluster.join(leader, name) for name in "ab"]
        succeed(leader, *crew)
    assert_same_bits(leaders[-1].run_dir, undisturbed.run_dir)
    audit = told(cluster.trust)
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == 1
    assert audit["registered", "a"] == audit["registered", "b"] == 2
    runs = [word for leader in leaders for word in ("--run", str(leader.run_dir))]
    assert "lines are right" in cluster.operate("audit", "verify", *runs)[0]
