"""Joining a secure run: by the line that the leader prints, once; whoever has no right to gets nowhere."""

from __future__ import annotations

import asyncio
import shlex
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from cryptography import x509
from grpc import aio

from tests.clusters import TINY
from tests.integration.harness import (
    LINE,
    Cluster,
    Leader,
    Program,
    Settings,
    assert_same_bits,
    noise,
    succeed,
)
from tests.tools.ports import free_port
from tests.tools.proxy import Proxy
from tests.trust.pki import Fleet, Holder, open_channel
from utils.trust import contract, pki
from utils.trust.names import Identity
from utils.trust.token import JoinToken, door_credentials
from utils.wire.rpc import SERVICE

ASKS = "asks for an identity: start this learner once with --join TOKEN (there: python -m leader.trust token)"
DAMAGED = "the join token is damaged: copy it whole, 97 characters that begin with flk1_"
TRAINING = ("RegisterLearner", "GetModel", "GetWork", "Session")
ADVICE = "make a new one: python -m leader.trust token"


def printed(leader: Leader) -> list[list[str]]:
    """The flags in the commands for learners in a leader's log, first those with which they join."""
    said = [str(entry["message"]) for entry in leader.seen if entry["event"] == "log"]
    lines = [line[line.index("python -m learner") :] for line in said if "python -m learner" in line]
    return [shlex.split(line)[3:] for line in lines]


def test_an_edge_joins_by_a_token_of_its_role_and_by_no_other(
    cluster: Cluster, undisturbed_noise: Leader
) -> None:
    at, file = f"127.0.0.1:{free_port()}", cluster.folder / "token"
    leader = cluster.leader({**TINY, "edges.listen": at}, secure=True)
    assert leader.address
    flags = ["leader.edge", "--leader", at, "--log-format", "json", "--name", "east", "--join", f"@{file}"]
    file.write_text(cluster.token())
    refused = cluster.program("edge", flags).fail(7)
    assert refused == f"this token is for role learner alone; {ADVICE} --role ROLE"
    file.write_text(cluster.token("--role", "aggregator"))
    edge = cluster.program("edge", flags)
    leader.event("EdgeServes", name="east")
    succeed(*[cluster.join(leader, name, *noise(name)) for name in "ab"], leader, edge)
    assert_same_bits(leader.run_dir, undisturbed_noise.run_dir)
    assert edge.event("log")["message"].startswith("admitted as east (aggregator) until")


def test_learners_join_by_the_printed_line_and_are_known_from_then_on(
    cluster: Cluster, tiny: Settings, undisturbed: Leader
) -> None:
    leader = cluster.leader(tiny, secure=True)
    assert leader.started["learners"] == 2
    joining, known = printed(leader)
    succeed(*[cluster.learner(leader, *joining, "--name", name) for name in "ab"], leader)
    assert_same_bits(leader.run_dir, undisturbed.run_dir)
    again = cluster.leader(tiny, listen=leader.address, secure=True)
    succeed(*[cluster.learner(again, *known, "--name", name) for name in "ab"], again)
    assert {event["name"] for event in again.events("LearnerJoined")} == {"a", "b"}
    assert_same_bits(again.run_dir, undisturbed.run_dir)


def stranger(cluster: Cluster, leader: Leader, *flags: str) -> Program:
    """A learner of the machine of somebody who was never here."""
    folder = cluster.folder / "strangers" / str(len(list(cluster.folder.glob("strangers/*"))))
    folder.mkdir(parents=True)
    return cluster.learner(leader, "--identity", str(folder), *flags)


def test_whoever_meets_the_wrong_kind_of_leader_is_told_what_to_do(cluster: Cluster) -> None:
    secure, plain = cluster.leader(TINY, secure=True), cluster.leader(TINY)
    other = cluster.leader({**TINY, "trust.dir": cluster.folder / "other"}, secure=True)
    own, others = f"@{cluster.trust}/join", f"@{cluster.folder}/other/join"
    assert other.address
    cluster.operate("issue", "eve", "--out", str(cluster.folder / "eve"))
    eve = ("--identity", str(cluster.folder / "eve"))
    between = "wrong address, or somebody is in between"
    clear = "speaks without encryption; if that is meant, add --insecure"
    ends = {
        cluster.learner(secure): f"leader {secure.address} {ASKS}",
        cluster.learner(secure, "--insecure"): f"leader {secure.address} {ASKS}",
        stranger(cluster, secure, "--join", others): f"{secure.address} is not the leader of this token: {between}",
        cluster.learner(other, *eve): f"{other.address} is not the leader of this identity: {between}",
        stranger(cluster, plain, "--join", own): f"{plain.address} {clear}",
        cluster.learner(plain, *eve): f"{plain.address} {clear}",
        stranger(cluster, secure, "--join", "flk1_" + "A" * 92): DAMAGED,
    }  # fmt: skip
    for learner, message in ends.items():
        assert learner.fail(7) == message
    for leader in (secure, plain, other):
        assert leader.process.poll() is None


def test_a_leader_with_another_ca_at_the_address_is_not_followed(cluster: Cluster) -> None:
    leader = cluster.leader(TINY, secure=True)
    learner = cluster.join(leader, "a", *noise("a"))
    leader.event("LearnerJoined", name="a")
    leader.kill()
    cluster.leader({**TINY, "trust.dir": cluster.folder / "other"}, listen=leader.address, secure=True)
    where = f"{leader.address} is not the leader of this identity"
    assert learner.fail(7) == f"{where}: wrong address, or somebody is in between"


def heard(cluster: Cluster, *, secure: bool) -> tuple[Leader, bytes]:
    """A run, and all bytes that went to and from a learner called clinic-a."""
    leader = cluster.leader(TINY, secure=secure)
    host, _, port = leader.address.rpartition(":")
    with Proxy(host, int(port), listens=True) as proxy:
        join = ("--join", f"@{cluster.trust}/join") if secure else ()
        crew = [
            cluster.learner(address, "--name", name, *join, *noise(name[-1]))
            for address, name in ((proxy.address, "clinic-a"), (leader.address, "clinic-b"))
        ]
        succeed(*crew, leader)
        assert proxy.heard is not None
        return leader, bytes(proxy.heard)


def test_who_listens_on_the_way_learns_nothing(cluster: Cluster) -> None:
    secure, encrypted = heard(cluster, secure=True)
    plain, clear = heard(cluster, secure=False)
    assert_same_bits(secure.run_dir, plain.run_dir)
    token = JoinToken.parse((cluster.trust / "join").read_text())
    names = (b"clinic-a", b"first.weight", b"RegisterLearner")
    assert [name for name in names if name not in clear] == []
    told = (*names, b"Enrol", token.token_id.encode(), token.text.encode(), token.secret, token.door)
    assert [name for name in told if name in encrypted] == []
    assert len(encrypted) > len(clear)


# --- those without an identity ---------------------------------------------------------------


async def refusal(channel: aio.Channel, method: str = f"/{contract.SERVICE}/WhoAmI") -> tuple[str, str]:
    """Code and details with which a call of nothing in particular ends."""
    async with channel:
        ask: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        call = ask(b"", timeout=20.0)
        return (await call.code()).name, await call.details()


def holder(folder: Path) -> Holder:
    """What `python -m leader.trust issue` has written."""
    certificate, key = ((folder / name).read_bytes() for name in ("cert.pem", "key.pem"))
    return Holder(pki.from_pem(certificate), pki.key_from_pem(key))


def strangers(token: JoinToken, fleet: str) -> dict[str, Holder | None]:
    """Who must not get through TLS."""
    door, other = Holder(*door_credentials(token.door)), Fleet()
    key = pki.new_key()
    identity = Identity(fleet, "admin", "eve")
    until = pki.ends_at(other.ca)
    now = until - 1e6
    return {
        "nobody": None,
        "another door": Holder(*door_credentials(bytes(16))),
        "another CA's": other.issue("a"),
        "another CA's, of this fleet": Holder(
            pki.issue(other.ca, other.key, key.public_key(), identity, until=until, now=now), key
        ),
        "signed by the door": Holder(
            pki.issue(door.certificate, door.key, key.public_key(), identity, until=until, now=now), key
        ),
    }


@asynccontextmanager
async def by_tls_1_2(address: str, folder: Path | None) -> AsyncIterator[aio.Channel]:
    """A channel to a leader that goes on over TLS 1.2, as whom a folder has the files of."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["h2"])
    if folder:
        tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    host, _, port = address.rpartition(":")

    serving: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
        sink.transport.abort()

    async def serve(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        sinks = [sink]
        try:
            answers, there = await asyncio.open_connection(host, int(port), ssl=tls)
            sinks.append(there)
            async with asyncio.TaskGroup() as group:
                group.create_task(carry(source, there))
                group.create_task(carry(answers, sink))
        except* OSError:  # refused, or cut off at the end
            pass
        for one in sinks:
            one.transport.abort()
            with suppress(OSError):
                await one.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, aio.insecure_channel(_address(server)) as channel:
        yield channel
    await asyncio.gather(*serving)


def _address(server: asyncio.Server) -> str:
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def try_all(address: str, token: JoinToken, ca: x509.Certificate, folder: Path) -> None:
    """Everybody who should be refused, and how."""
    fleet = pki.fleet_of(token.ca_public_key())
    for who, shown in strangers(token, fleet).items():
        code, _ = await refusal(open_channel(address, ca, shown))
        assert code == "UNAVAILABLE", who
    async with by_tls_1_2(address, None) as channel:
        assert (await refusal(channel))[0] == "UNAVAILABLE"
    async with by_tls_1_2(address, folder) as channel:
        assert await refusal(channel) == (
            "PERMISSION_DENIED", "leader: this leader speaks TLS 1.3 alone; update gRPC there"
        )  # fmt: skip
    assert (await refusal(aio.insecure_channel(address)))[0] == "UNAVAILABLE"
    door = Holder(*door_credentials(token.door))
    for method in TRAINING:
        assert (await refusal(open_channel(address, ca, door), f"/{SERVICE}/{method}")) == (
            "PERMISSION_DENIED", f"leader: a caller with role 'door' may not call {method}"
        )  # fmt: skip
    assert (await refusal(open_channel(address, ca, holder(folder))))[0] == "OK"


def test_without_an_identity_nobody_gets_through_nor_leaves_a_line(
    cluster: Cluster, undisturbed_noise: Leader
) -> None:
    leader = cluster.leader(TINY, secure=True)
    cluster.operate("issue", "eve", "--out", str(cluster.folder / "eve"))
    token = JoinToken.parse((cluster.trust / "join").read_text())
    ca = pki.from_pem((cluster.trust / "ca.pem").read_bytes())
    asyncio.run(try_all(leader.address, token, ca, cluster.folder / "eve"))
    succeed(*[cluster.join(leader, name, *noise(name)) for name in "ab"], leader)
    assert [line["message"] for line in leader.events(LINE)] == [f"results are in {leader.run_dir}"]
    refused = {event["method"]: event["kind"] for event in leader.events("CallRefused")}
    assert refused == dict.fromkeys(("WhoAmI", *TRAINING), "ForbiddenError")
    assert_same_bits(leader.run_dir, undisturbed_noise.run_dir)


# --- tokens ------------------------------------------------------------------------------------


def test_a_token_lets_in_whom_it_is_for_and_as_often_as_it_says(cluster: Cluster) -> None:
    leader = cluster.leader(TINY, secure=True)
    assert leader.address
    once, ended, bound = (cluster.token(*flags) for flags in ((), ("--hours", "0.000001"), ("--name", "x")))
    revoked, twice = cluster.token(), cluster.token("--uses", "2")
    changed = twice[:40] + ("y" if twice[40] == "x" else "x") + twice[41:]
    cluster.operate("revoke-token", JoinToken.parse(revoked).token_id)
    racers = {name: stranger(cluster, leader, "--join", once, "--name", name, *noise(name)) for name in "ab"}
    winner = str(leader.event("LearnerJoined")["name"])
    first, second = racers.pop(winner), *racers.values()
    assert second.fail(7) == f"this token is used up; {ADVICE}"
    taken = (
        f"the name '{winner}' is another key's; choose another --name, or there: "
        f"python -m leader.trust token --name {winner} --replace"
    )
    ends = {
        stranger(cluster, leader, "--join", once): f"this token is used up; {ADVICE}",
        stranger(cluster, leader, "--join", ended): f"this token has ended; {ADVICE}",
        stranger(cluster, leader, "--join", revoked): f"this leader has no such token, or it was revoked; {ADVICE}",
        stranger(cluster, leader, "--join", bound, "--name", "y"): "this token is for the name 'x' alone; drop --name",
        stranger(cluster, leader, "--join", twice, "--name", winner): taken,
        stranger(cluster, leader, "--join", twice[:-1]): DAMAGED,
        stranger(cluster, leader, "--join", changed): DAMAGED,
    }  # fmt: skip
    for learner, message in ends.items():
        assert learner.fail(7) == message
    replacing = cluster.token("--name", winner, "--replace")
    heir = stranger(cluster, leader, "--join", replacing, *noise(winner))
    assert first.fail(7) == (f"the certificate of {winner} was replaced or forgotten; join with a new token")
    succeed(stranger(cluster, leader, "--join", twice, *noise("b")), heir, leader)
    assert len({event["name"] for event in leader.events("LearnerJoined")}) == 2
