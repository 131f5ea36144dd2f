"""A secure run leaves an audit of what matters, no secret in it, and its head where it can't be changed unseen."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from leader.events import LearnerLeft
from leader.trust.audit.chain import FILE
from leader.trust.audit.check import kept_heads, report, verify
from protos import leader_pb2, trust_pb2
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play
from tests.leader.trust.fleet import connect, held_by
from utils.errors import ForbiddenError
from utils.trust import contract as trust_contract
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.token import JoinToken, door_credentials
from utils.wire import contract
from utils.wire.status import failures_told

INFO = leader_pb2.LearnerInfo(
    control=leader_pb2.CONTROL_SESSION,
    own_data=leader_pb2.OwnData(examples=24, classes=2, fingerprint="f"),
)


def secure(folder: Path) -> Settings:
    return {**TINY, "trust.mode": "on", "trust.dir": folder / "trust", "trust.token_uses": 1}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trust" / FILE).read_bytes().splitlines()]


def lines_of(trust: Path) -> list[bytes]:
    return (trust / FILE).read_bytes().splitlines(keepends=True)


async def enrol(address: str, token: JoinToken, name: str) -> Credentials:
    """Join with a token, as a learner does; what it holds from then on."""
    key = pki.new_key()
    csr = pki.make_csr(key)
    certificate, door = door_credentials(token.door)
    root = pki.to_pem(pki.anchor(token.ca_public_key()))
    request = trust_pb2.EnrolRequest(csr=csr, name=name, token_id=token.token_id, proof=token.prove(csr))
    shown = Credentials(pki.key_to_pem(door), pki.to_pem(certificate), root)
    async with connect(address, shown) as channel:
        with failures_told():
            given = await trust_contract.ENROL.ask(channel, request)
    return held_by(key, given)


def spellings(secret: bytes) -> set[bytes]:
    """How a secret may stand in a text."""
    encoded = {secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret), secret}
    return encoded | {text.strip(b"=") for text in encoded}


def test_who_came_was_refused_and_left_is_recorded_without_a_secret(tmp_path: Path) -> None:
    secrets: set[bytes] = set()

    async def scenario(cluster: Cluster) -> None:
        assert cluster.invitation is not None
        text = cluster.invitation.token
        token = JoinToken.parse(text)
        ann = await enrol(cluster.address, token, "ann")
        with pytest.raises(ForbiddenError, match="used up"):
            await enrol(cluster.address, token, "bob")
        async with connect(cluster.address, ann) as channel:
            ack = await contract.REGISTER.ask(channel, INFO)
            with pytest.raises(ForbiddenError), failures_told():
                await trust_contract.LIST_TOKENS.ask(channel, trust_pb2.ListRequest())
            other = leader_pb2.LearnerInfo(name=text[:64])
            other.MergeFrom(INFO)
            with pytest.raises(ForbiddenError), failures_told():
                await contract.REGISTER.ask(channel, other)
            session = contract.SESSION.open(channel)
            await session.write(leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=ack.token)))
            bye = leader_pb2.Goodbye(reason=f"my token was {text}")
            await session.write(leader_pb2.LearnerMessage(goodbye=bye))
            await cluster.event(LearnerLeft, name="ann")
        secrets.update({text.encode()}, *(spellings(one) for one in (token.secret, token.door, ack.token)))
        cluster.app.coordinator.stop("enough")
        await cluster.finished()
        assert verify(tmp_path / "trust", kept_heads(cluster.run_dir)).why == ""
        assert cluster.summary["audit_head"] in [str(head) for head in kept_heads(cluster.run_dir)]

    play(scenario, secure(tmp_path))
    lines = records(tmp_path)
    told = [(line["what"], line["who"], line["role"], line["ip"]) for line in lines]
    here = "127.0.0.1"
    assert [line for line in told if line[0] not in ("token made", "start", "stop")] == [
        ("enrolled", "ann", "learner", here),
        ("refused", "", "door", here),
        ("registered", "ann", "learner", here),
        ("refused", "ann", "learner", here),
        ("refused", "ann", "learner", here),
        ("left", "ann", "", ""),
    ]
    assert [line["what"] for line in lines][:2] == ["token made", "start"]
    assert (lines[-1]["what"], lines[-1]["reason"]) == ("stop", "enough")
    assert [line["method"] for line in lines if line["what"] == "refused"] == [
        "Enrol",
        "ListTokens",
        "RegisterLearner",
    ]
    secrets.update(*(spellings((tmp_path / "trust" / name).read_bytes()) for name in ("audit.key", "door")))
    audit = (tmp_path / "trust" / FILE).read_bytes()
    assert [secret for secret in secrets if secret in audit] == []
    assert b"my token was [secret]" in audit


async def train_by_token(cluster: Cluster) -> None:
    """All rounds, by a and b, who join with what the leader printed."""
    assert cluster.invitation is not None
    for name in "ab":
        join(cluster, name, join=cluster.invitation.token, identity=None)
    await cluster.finished()


def test_where_the_result_is_a_mean_the_last_commit_names_that(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await train_by_token(cluster)
        commits = [line for line in records(tmp_path) if line["what"] == "committed"]
        assert commits[-1]["weights_sha256"] == cluster.summary["model_sha256"]
        assert commits[-1]["weights_sha256"] != cluster.model_sha256

    play(scenario, {**secure(tmp_path), "trust.token_uses": 0, "server.average": 0.7})


def test_commits_name_the_weights_and_learners_keep_what_can_not_be_changed(
    tmp_path: Path,
) -> None:
    trust = tmp_path / "trust"

    async def scenario(cluster: Cluster) -> None:
        await train_by_token(cluster)
        commits = [line for line in records(tmp_path) if line["what"] == "committed"]
        assert [(line["round"], line["learners"]) for line in commits] == [
            (round_, ["a", "b"]) for round_ in (1, 2, 3)
        ]
        assert commits[-1]["weights_sha256"] == cluster.model_sha256 == cluster.summary["model_sha256"]
        assert commits[-1]["version"] == cluster.app.coordinator.state.version
        assert not verify(trust, kept_heads(cluster.run_dir)).why

    play(scenario, {**secure(tmp_path), "trust.token_uses": 0})
    heads = {}
    for name in "ab":
        (witness,) = (tmp_path / "home" / "identities").glob(f"*/{name}/witness.json")
        (heads[name],) = kept_heads(witness)
    assert heads["a"] == heads["b"]
    number = heads["a"].number
    assert [line["round"] for line in records(tmp_path)[number - 1 : number]] == [3]
    assert report(trust, runs=[witness])[1] == 0
    (trust / FILE).write_bytes(b"".join(lines_of(trust)[: number - 1]))
    assert report(trust)[1] == 0
    words, code = report(trust, runs=[witness])
    assert code == 1
    assert f"line {number} is missing" in words


def test_a_run_without_trust_writes_no_audit_and_keeps_no_head(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.app.coordinator.stop("enough")
        await cluster.finished()
        assert "audit_head" not in cluster.summary
        (checkpoint,) = (cluster.run_dir / "checkpoints").iterdir()
        assert b"audit" not in checkpoint.read_bytes()

    play(scenario, {**TINY, "trust.dir": tmp_path / "trust"})
    assert not (tmp_path / "trust").exists()


def test_a_run_that_fails_says_so_in_its_last_line(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.failed(cluster.leader)

    play(scenario, {**secure(tmp_path), "cohort.wait_s": 0.05})
    last = records(tmp_path)[-1]
    assert last["what"] == "stop"
    assert last["reason"].startswith("failed: ")
