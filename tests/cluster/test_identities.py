"""Learners with identities in whole secure runs: they join, are renewed, dialled, revoked; the bits are the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.events import CallRefused, LearnerLeft
from protos import learner_pb2
from scripts.cluster import Cluster, Node
from tests.clusters import TINY, Settings, join, play, train
from tests.leader.trust.fleet import Fleet
from tests.tools.ports import free_port
from utils.errors import ForbiddenError
from utils.trust.names import learner_tls_name
from utils.wire import contract
from utils.wire.rpc import channel_options

MANY_ROUNDS = {"rounds": 200}  # more than four seconds on any machine


def secure(folder: Path, **settings: object) -> Settings:
    """Of a tiny run on 127.0.0.1 that asks for identities; it is faster than its limits foresee."""
    more = {key.replace("__", "."): value for key, value in settings.items()}
    limits = {"limits.calls_per_s": 1000, "limits.registrations_per_min": 1000}
    return {**TINY, **limits, "trust.mode": "on", "trust.dir": folder / "trust", **more}


def join_by_token(cluster: Cluster, name: str, **options: Any) -> Node:
    """A learner that joins with what the leader printed."""
    assert cluster.invitation is not None
    return join(cluster, name, **{"join": cluster.invitation.token, "identity": None, **options})


async def train_joined(cluster: Cluster, *, dialled: bool = False) -> None:
    """All rounds, by learners that join, and that the leader may dial."""
    for name in "ab":
        join_by_token(cluster, name, network_addr=f"127.0.0.1:{free_port()}" if dialled else "")
    await cluster.finished()


def told(folder: Path) -> Counter[tuple[str, str]]:
    """How often the audit tells what of whom."""
    lines = map(json.loads, (folder / "trust" / "audit.jsonl").read_text().splitlines())
    return Counter((line["what"], line["who"]) for line in lines)


def test_learners_that_joined_end_in_the_bits_of_a_plain_run_and_bear_witness(
    tmp_path: Path, home: Path
) -> None:
    plain, run = play(train), play(train_joined, secure(tmp_path))
    assert run.model_sha256 == plain.model_sha256
    heads = [json.loads(path.read_text())["head"] for path in home.glob("*/*/witness.json")]
    lines = (tmp_path / "trust" / "audit.jsonl").read_text().splitlines()
    for head in heads:
        number, _, digest = head.partition(":")
        after = json.loads(lines[int(number)])
        assert after["prev"] == digest
    assert len(heads) == 2


@pytest.fixture(scope="module")
def plain_sha256() -> str:
    """Of the model of a plain run of many rounds."""
    return play(train, {**TINY, **MANY_ROUNDS}).model_sha256


@pytest.mark.parametrize("dialled", [False, True], ids=["session", "dialled"])
def test_certificates_of_three_seconds_are_renewed_over_many_rounds_and_nothing_is_lost(
    tmp_path: Path, dialled: bool, plain_sha256: str
) -> None:
    hours = {"trust__cert_hours": 3 / 3600}
    run = play(partial(train_joined, dialled=dialled), secure(tmp_path, **MANY_ROUNDS, **hours))
    assert run.model_sha256 == plain_sha256
    assert not run.seen(LearnerLeft)
    audit = told(tmp_path)
    assert min(audit["renewed", name] for name in "ab") >= 2
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == 1


@pytest.mark.parametrize("exchange", ["delta", "gradient"])
def test_a_learner_that_is_revoked_ends_at_once_with_the_reason(tmp_path: Path, exchange: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        join_by_token(cluster, "a")
        b = join_by_token(cluster, "b")
        await cluster.committed(2)
        Fleet(tmp_path / "trust").revoke("b")
        begun = time.monotonic()
        error = await cluster.failed(b)
        assert time.monotonic() - begun < 10
        assert isinstance(error, ForbiddenError)
        assert str(error) == "b was revoked; ask the leader's operator"
        assert error.exit_code == 7
        await cluster.event(LearnerLeft, name="b", reason="revoked")

    play(scenario, secure(tmp_path, rounds=1000, exchange=exchange))


def test_a_learner_that_sleeps_over_the_change_to_its_new_certificate_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.trust.membership._LATEST", 9.0)  # long after the old certificate's end

    async def scenario(cluster: Cluster) -> None:
        sleeper = join_by_token(cluster, "a")  # which is given no work yet, with which it would change
        await cluster.event(CallRefused, method="Session", kind="ForbiddenError")
        assert not sleeper.ended
        join_by_token(cluster, "b")
        await cluster.finished()

    run = play(scenario, secure(tmp_path, trust__cert_hours=3 / 3600))
    assert run.model_sha256 == play(train).model_sha256
    assert not run.seen(LearnerLeft)


def test_a_learner_that_hears_of_no_commit_is_renewed_all_the_same(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        join_by_token(cluster, "a")
        await asyncio.sleep(9.0)  # longer than a certificate lives
        join_by_token(cluster, "b")
        await cluster.finished()

    run = play(scenario, secure(tmp_path, trust__cert_hours=6 / 3600))
    assert told(tmp_path)["renewed", "a"] >= 2
    assert not run.seen(LearnerLeft)
    assert {refused.kind for refused in run.seen(CallRefused)} <= {"DuplicateUpdateError"}


def test_a_dialled_learner_answers_its_leader_alone(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"

    async def scenario(cluster: Cluster) -> None:
        join_by_token(cluster, "a", network_addr=address)
        join_by_token(cluster, "b")
        await cluster.committed(1)
        fleet = Fleet(tmp_path / "trust")
        name = ("grpc.ssl_target_name_override", learner_tls_name("a"))
        for caller, words in (
            (fleet.admit("eve"), "learner: eve (learner) may not call a learner, its leader alone may"),
            (fleet.admit("op", "admin"), "learner: op (admin) may not call a learner, its leader alone may"),
        ):
            async with aio.secure_channel(
                address, caller.for_channel(), options=(*channel_options(), name)
            ) as channel:
                call = contract.STOP_TRAINING.open(channel, learner_pb2.StopNotice())
                assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
                assert await call.details() == words
        async with aio.insecure_channel(address) as channel:
            call = contract.STOP_TRAINING.open(channel, learner_pb2.StopNotice())
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await cluster.finished()

    run = play(scenario, secure(tmp_path, rounds=30))
    assert not run.seen(LearnerLeft)


def test_a_jwt_is_exchanged_for_an_identity_and_read_anew_when_that_is_renewed(
    tmp_path: Path, home: Path, token: Callable[..., str]
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    for name in "ab":
        (tmp_path / name).write_text(token(sub=name))

    async def scenario(cluster: Cluster) -> None:
        given = {"ca": tmp_path / "trust" / "ca.pem", "jwt_leader": listen, "join": "", "identity": None}
        for name in "ab":
            join(cluster, "", data=f"noise-{name}", jwt_file=tmp_path / name, **given)
        await cluster.finished()

    issuer = {"trust__jwt_listen": listen, "trust__jwt_jwks": tmp_path / "jwks.json"}
    hours = {"trust__jwt_cert_hours": 3 / 3600}
    run = play(scenario, secure(tmp_path, rounds=200, **issuer, **hours))
    audit = told(tmp_path)
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == 1
    assert min(audit["renewed", name] for name in "ab") >= 1
    # An update whose answer went with its connection is asked for once more.
    assert {refused.kind for refused in run.seen(CallRefused)} <= {"DuplicateUpdateError"}
    assert sorted(path.name for path in home.glob("[0-9a-f]*/*")) == ["a", "b"]
