"""Identities in secure runs: what theirs alone is, how they end and are renewed, and that no secret gets out."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc import aio

from leader.trust.access.roles import TABLE
from protos import leader_pb2
from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, Settings, assert_same_bits, noise, succeed
from tests.leader.trust.fleet import Fleet, connect
from utils.errors import UnknownLearnerError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import TOKEN_ROLES
from utils.trust.token import JoinToken, door_credentials
from utils.wire.contract import GET_WORK, REGISTER, Method
from utils.wire.status import failures_told

OWN_DATA = leader_pb2.OwnData(examples=24, fingerprint="f")
INFO = leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION, own_data=OWN_DATA)
SLOW = "tests.integration.noise_task:SlowNoise"


def files_of(folder: Path) -> Credentials:
    """An identity on disk."""
    return Credentials(*((folder / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem")))


def issued(cluster: Cluster, name: str, *flags: str) -> Path:
    """The files of a new identity."""
    folder = cluster.folder / "issued" / name
    cluster.operate("issue", name, "--out", str(folder), *flags)
    return folder


def ask(leader: Leader, who: Credentials, method: Method[Any, Any], request: object) -> Any:
    """The answer to one who asks; raises what it is refused with."""

    async def call() -> Any:
        async with connect(leader.address, who) as channel:
            with failures_told():
                return await method.ask(channel, request, 20.0)

    return asyncio.run(call())


async def refusals(leader: Leader, who: Credentials, paths: list[str]) -> dict[str, tuple[str, str]]:
    """Code and details with which calls of nothing in particular end."""
    ends = {}
    async with connect(leader.address, who) as channel:
        for path in paths:
            method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            call = method(b"", timeout=20.0)
            ends[path] = ((await call.code()).name, await call.details())
    return ends


def told(cluster: Cluster) -> Counter[tuple[str, str]]:
    """How often the audit tells what of whom."""
    lines = map(json.loads, (cluster.trust / "audit.jsonl").read_text().splitlines())
    return Counter((line["what"], line["who"]) for line in lines)


@contextmanager
def impostor(folder: Path) -> Iterator[str]:
    """The address of whoever serves with a learner's certificate in place of a leader's."""
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', files_of(folder).for_server())}"
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()


def test_an_identity_is_worth_its_own_role_and_name_alone(cluster: Cluster) -> None:
    leader = cluster.leader(TINY, secure=True)
    joined = cluster.join(leader, "a", *noise("a"))
    ann, eve = issued(cluster, "ann"), issued(cluster, "eve")
    fleet = Fleet(cluster.trust)
    for role in TOKEN_ROLES:
        name = f"the-{role}"
        # EdgeService has a port of its own.
        barred = [path for path, row in TABLE.items() if role not in row and not path.startswith("/edge.")]
        assert asyncio.run(refusals(leader, fleet.admit(name, role), barred)) == {
            path: ("PERMISSION_DENIED", f"leader: {name} ({role}) may not call {path.rpartition('/')[2]}")
            for path in barred
        }
    work = leader_pb2.WorkRequest(token=ask(leader, files_of(ann), REGISTER, INFO).token)
    with pytest.raises(UnknownLearnerError, match="unknown session token"):
        ask(leader, files_of(eve), GET_WORK, work)
    ask(leader, files_of(ann), GET_WORK, work)
    named = cluster.learner(leader, "--identity", str(eve), "--name", "ann", *noise("a"))
    assert named.fail(7) == (
        "the name 'ann' is not this learner's: its certificate says 'eve'; leave --name out"
    )
    leader.event("LearnerJoined", name="a")
    (home,) = cluster.home.glob("identities/*/a")
    for folder in (home, eve):  # that of eve could serve under her name
        with impostor(folder) as address:
            victim = cluster.learner(address, "--identity", str(ann), *noise("a"))
            between = "wrong address, or somebody is in between"
            assert victim.fail(7) == f"{address} is not the leader of this identity: {between}"
    assert joined.process.poll() is None


def test_who_is_revoked_in_mid_round_is_gone_at_once_and_its_shard_moves(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader({**tiny, "data.shards": 2}, secure=True)
    stays = cluster.join(leader, "a", faults="stop@learner.training:5")
    works = cluster.join(leader, "b", faults="stop@learner.training:3")
    works.frozen()
    idles = cluster.join(leader, "c")
    leader.event("LearnerJoined", name="c")
    for name in "cb":
        cluster.operate("revoke", name, "--why", "its disk was stolen")
        left = leader.event("LearnerLeft", name=name)
        assert left["reason"] == "revoked"
        revoked = json.loads(_line(cluster, "revoked", name))
        assert left["time"] - revoked["t"] < 10  # s, a heartbeat
    works.signal(signal.SIGCONT)
    for name, learner in (("b", works), ("c", idles)):
        assert learner.fail(7) == f"{name} was revoked; ask the leader's operator"
    stays.frozen()
    assert cluster.learner(leader, "--name", "b").fail(7) == "b was revoked; ask the leader's operator"
    stays.signal(signal.SIGCONT)
    succeed(stays, leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
    assert [line.split()[0] for line in cluster.operate("list") if "its disk was stolen" in line] == [
        "b",
        "c",
    ]


def _line(cluster: Cluster, what: str, name: str) -> str:
    """The audit's line of what was done to a name."""
    lines = (cluster.trust / "audit.jsonl").read_text().splitlines()
    (line,) = [line for line in lines if f'"what":"{what}"' in line and f'"name":"{name}"' in line]
    return line


def test_after_kills_of_leader_and_learner_all_come_back_by_their_certificates(
    cluster: Cluster, undisturbed_noise: Leader
) -> None:
    leader = cluster.leader(TINY, secure=True, faults="kill@leader.committed:1")
    stays = cluster.join(leader, "a", *noise("a"))
    killed = cluster.join(leader, "b", *noise("b"), faults="kill@learner.training:2")
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    assert resumed.started["resumed_round"] == 1
    assert killed.wait() == -signal.SIGKILL
    again = cluster.learner(resumed, "--name", "b", *noise("b"))
    succeed(stays, again, resumed)
    assert_same_bits(resumed.run_dir, undisturbed_noise.run_dir)
    audit = told(cluster)
    assert {name: audit["enrolled", name] for name in "ab"} == {"a": 1, "b": 1}
    assert cluster.operate("audit", "verify", "--run", str(resumed.run_dir))


def test_short_certificates_are_renewed_and_that_of_a_frozen_learner_ends(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    brief = {"trust.cert_hours": 6 / 3600}
    other = cluster.leader({**tiny, **brief, "data.shards": 2, "cohort.lease_s": 10}, secure=True)
    helper = cluster.join(other, "c", faults="stop@learner.training:5")
    mine = issued(cluster, "d", "--hours", str(brief["trust.cert_hours"]))
    frozen = cluster.learner(other, "--identity", str(mine), faults="stop@learner.training:2")
    frozen.frozen()
    settings = {**TINY, "rounds": 100}
    plain, leader = cluster.leader(settings), cluster.leader({**settings, **brief}, secure=True)
    slow = [cluster.join(leader, name, "--task", SLOW, "--data", f"noise-{name}") for name in "ab"]
    quick = [cluster.learner(plain, "--name", name, *noise(name)) for name in "ab"]
    succeed(*quick, plain)
    other.event("CallRefused", kind="ForbiddenError")
    other.event("LearnerLeft", name="d", reason="no sign of life for 10 s")
    helper.frozen()
    frozen.signal(signal.SIGCONT)
    # Told by the leader, or known from its own file, if the connection broke first.
    ended = r"(the certificate of d|this learner's certificate) ended on .* UTC; join again with a new token"
    assert re.fullmatch(ended, frozen.fail(7))
    helper.signal(signal.SIGCONT)
    succeed(helper, other, *slow, leader)
    assert_same_bits(other.run_dir, undisturbed.run_dir)
    assert_same_bits(leader.run_dir, plain.run_dir)
    audit = told(cluster)
    assert min(audit["renewed", name] for name in "ab") >= 3
    assert audit["enrolled", "a"] == audit["enrolled", "b"] == 1
    assert leader.events("LearnerLeft") == []
    # An update whose answer went with its connection is asked for once more.
    assert {event["kind"] for event in leader.events("CallRefused")} <= {"DuplicateUpdateError"}


# --- secrets -----------------------------------------------------------------------------------


def written(secret: bytes) -> set[bytes]:
    """A secret as it could stand in a file."""
    plain, url = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    digits = secret.hex().encode()
    return {secret, digits, digits.upper(), plain.rstrip(b"="), url.rstrip(b"="), repr(secret)[2:-1].encode()}


def of_key(key: pki.Key) -> set[bytes]:
    """A private key in PEM, or its number."""
    number = key.private_numbers().private_value
    lines = pki.key_to_pem(key).splitlines()
    return {lines[1], str(number).encode(), *written(number.to_bytes(32))}


def secrets_of(cluster: Cluster, session_token: bytes) -> set[bytes]:
    """Everything that nobody but its holder may know."""
    text = (cluster.trust / "join").read_text()
    token, body = JoinToken.parse(text), text.removeprefix("flk1_").encode()
    keys = [cluster.trust / "ca.key", *cluster.folder.glob("**/key.pem")]
    private = [pki.key_from_pem(path.read_bytes()) for path in keys]
    private += [token.key(), door_credentials(token.door)[1]]
    raw = [token.secret, token.door, (cluster.trust / "audit.key").read_bytes(), session_token]
    pieces = {body[start : start + 23] for start in range(0, len(body), 23)}
    return pieces.union(*map(written, raw), *map(of_key, private))


def found_in(path: Path, secrets: set[bytes]) -> set[bytes]:
    """The secrets in a file."""
    content = path.read_bytes()
    return {secret for secret in secrets if secret in content}


def test_no_secret_gets_into_what_a_run_leaves_or_where_others_can_read_it(cluster: Cluster) -> None:
    leader = cluster.leader({**TINY, "cohort.require": "x"}, secure=True)
    ann = issued(cluster, "ann")
    ack = ask(leader, files_of(ann), REGISTER, INFO)
    flags = ("--tags", "x", "--log-level", "debug")
    crew = [
        cluster.join(leader, name, *flags, *noise(name), fresh=fresh, faults="stop@learner.training:2")
        for name, fresh in (("a", False), ("b", True))
    ]
    for learner in crew:
        learner.frozen()
    lines = _arguments([leader, *crew])
    assert any(f"@{cluster.trust}/join" in line for line in lines)
    for learner in crew:
        learner.signal(signal.SIGCONT)
    succeed(*crew, leader)
    secrets = secrets_of(cluster, ack.token)
    assert not [secret for secret in secrets for line in lines if secret in line.encode()]
    private = {cluster.trust / name for name in ("ca.key", "audit.key", "door", "join")}
    private |= set(cluster.folder.glob("**/key.pem"))
    holding = {path for path in cluster.folder.rglob("*") if path.is_file() and found_in(path, secrets)}
    assert holding == private
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def _arguments(programs: list[Any]) -> list[str]:
    """The command lines of programs and of all that they have started."""
    found = [psutil.Process(program.process.pid) for program in programs]
    found += [child for process in found for child in process.children(recursive=True)]
    return [" ".join(process.cmdline()) for process in found]
