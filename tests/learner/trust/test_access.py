"""How a learner comes to its leader: what it speaks, what it shows, and the lines that say what to do."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import aio

from learner.app import App
from learner.options import LearnerOptions
from learner.trust.access import Access, Enrolled, choose
from learner.trust.channel import speaks_tls
from protos import leader_pb2, trust_pb2
from tests.learner.test_app import TOOLS, Leader
from tests.learner.trust.leaders import TIMEOUT_S, SecureLeader
from tests.tools.grpc_server import started
from tests.tools.oidc import signed, signing_key
from tests.tools.ports import closed_address
from utils.errors import ConfigError, FlockstepError, ForbiddenError, NotReadyError, UnreachableError
from utils.trust import pki
from utils.trust.names import Identity as Name
from utils.trust.token import JoinToken
from utils.wire.contract import Context, LeaderStub
from utils.wire.status import failures_told

ASKS = "leader {} asks for an identity: start this learner once with --join TOKEN (there: python -m leader.trust token)"
IN_PLAIN = "{} speaks without encryption; if that is meant, add --insecure"
DAMAGED = "the join token is damaged: copy it whole, 97 characters that begin with flk1_"


class Registrar(Leader):
    """A leader that registers whoever comes, unless something in between has words against it."""

    def __init__(self, between: str = "") -> None:
        super().__init__("", [])
        self._between = between

    async def register(self, info: leader_pb2.LearnerInfo, context: Context) -> leader_pb2.AckWithMetadata:
        if self._between:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, self._between)
        return await super().register(info, context)


@pytest.fixture
def leader(tmp_path: Path) -> SecureLeader:
    return SecureLeader(tmp_path / "trust", Registrar().handler())


async def register(access: Access) -> str:
    """What a learner does first; the name that it got."""
    async with await access.open() as channel:
        try:
            with failures_told():
                return (await LeaderStub(channel).register(leader_pb2.LearnerInfo(), 10.0)).name
        except (UnreachableError, ForbiddenError) as error:
            raise await access.explain(error) from None
        finally:
            access.close()


def refusal(options: LearnerOptions) -> str:
    """What a whole learner with these options ends with, and that this means exit code 7."""
    with pytest.raises(ForbiddenError) as caught:
        asyncio.run(asyncio.wait_for(App(options, TOOLS, None).run(), TIMEOUT_S))
    assert caught.value.exit_code == 7
    return str(caught.value)


@asynccontextmanager
async def in_plain(between: str = "") -> AsyncIterator[str]:
    """The address of a leader without encryption."""
    server = aio.server()
    server.add_generic_rpc_handlers((Registrar(between).handler(),))
    async with started(server) as address, asyncio.timeout(TIMEOUT_S):
        yield address


async def ends_with(options: LearnerOptions) -> str:
    """The refusal that a learner with these options ends with."""
    app = App(options, TOOLS, None)
    with pytest.raises(ForbiddenError) as caught:
        await app.run()
    assert caught.value.exit_code == 7
    return str(caught.value)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_a_learner_joins_by_a_token_once_and_then_never_again(leader: SecureLeader, home: Path) -> None:
    async def scenario() -> None:
        async with leader.serving():
            token = leader.token(uses=1)
            assert await register(choose(leader.options(join=token))) == "a"
            assert await register(choose(leader.options())) == "a"
            assert await register(choose(leader.options(join=token))) == "a"  # it is not used again

    run(scenario())
    assert len(leader.enrolled) == 1
    [folder] = (home / leader.fleet.authority.fleet).iterdir()
    certificate = pki.from_pem((folder / "cert.pem").read_bytes())
    assert pki.identity_of(certificate, leader.fleet.authority.ca).name == folder.name


def test_an_answer_that_gets_lost_uses_nothing_up(leader: SecureLeader, home: Path) -> None:
    leader.lost_answers = 1

    async def scenario() -> None:
        async with leader.serving():
            token = leader.token(uses=1)
            access = choose(leader.options(join=token))
            with pytest.raises(UnreachableError):
                await access.open()
            access.close()  # another process goes on
            assert await register(choose(leader.options(join=token))) == "a"

    run(scenario())
    first, second = (pki.key_of_csr(request.csr) for request in leader.enrolled)
    assert first == second
    assert len(list((home / leader.fleet.authority.fleet).iterdir())) == 1


def test_a_token_comes_from_a_file_or_the_input(
    leader: SecureLeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with leader.serving():
            (tmp_path / "token").write_text(f"  {leader.token()}\n")
            await register(choose(leader.options(join=f"@{tmp_path}/token", name="by-file")))
            monkeypatch.setattr(sys, "stdin", io.StringIO(f"{leader.token()}\n"))
            await register(choose(leader.options(join="-", name="by-input")))

    run(scenario())
    assert [request.name for request in leader.enrolled] == ["by-file", "by-input"]
    with pytest.raises(ConfigError, match=r"^--join: can't read /nowhere: .*No such file"):
        choose(LearnerOptions.model_validate({"leader": "h:1", "join": "@/nowhere"}))


@pytest.mark.parametrize("text", ["flk1_abc", "x", "flk1_" + "A" * 92])
def test_a_damaged_token_is_told_before_anything_is_dialled_and_never_shown(text: str) -> None:
    options = LearnerOptions.model_validate({"leader": "h:1", "join": text})
    with pytest.raises(ForbiddenError) as caught:
        choose(options)
    assert str(caught.value) == DAMAGED
    assert text not in repr(options)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"uses": 1}, "this token is used up; make a new one: python -m leader.trust token"),
        ({"hours": 1e-9}, "this token has ended; make a new one: python -m leader.trust token"),
    ],
    ids=["used up", "ended"],
)
def test_a_token_that_is_used_up_or_ended_ends_the_learner(
    leader: SecureLeader, said: dict[str, Any], words: str
) -> None:
    async def scenario() -> str:
        async with leader.serving():
            token = leader.token(**said)
            if "uses" in said:
                await register(choose(leader.options(join=token, name="first")))
            return await ends_with(leader.options(join=token, name="second"))

    assert run(scenario()) == words


def test_a_name_that_is_anothers_ends_the_learner(leader: SecureLeader) -> None:
    leader.fleet.admit("clinic-a")

    async def scenario() -> str:
        async with leader.serving():
            return await ends_with(leader.options(join=leader.token(), name="clinic-a"))

    assert run(scenario()) == (
        "the name 'clinic-a' is another key's; choose another --name, or there: "
        "python -m leader.trust token --name clinic-a --replace"
    )


def test_a_token_of_another_leader_is_told(leader: SecureLeader, tmp_path: Path) -> None:
    other = SecureLeader(tmp_path / "other")

    async def scenario() -> str:
        async with leader.serving():
            return await ends_with(leader.options(join=other.token()))

    wrong = "is not the leader of this token: wrong address, or somebody is in between"
    assert run(scenario()) == f"{leader.address} {wrong}"
    assert leader.enrolled == []


def test_another_leader_at_the_address_of_an_identity_is_told(leader: SecureLeader, tmp_path: Path) -> None:
    async def scenario() -> str:
        async with leader.serving():
            await register(choose(leader.options(join=leader.token())))
        other = SecureLeader(tmp_path / "other")
        async with other.serving(leader.address):
            return await ends_with(leader.options())

    wrong = "is not the leader of this identity: wrong address, or somebody is in between"
    assert run(scenario()) == f"{leader.address} {wrong}"


def test_a_learner_without_identity_is_told_how_to_get_one(leader: SecureLeader) -> None:
    async def scenario() -> str:
        async with leader.serving():
            return await ends_with(leader.options())

    assert run(scenario()) == ASKS.format(leader.address)


def test_a_learner_with_a_token_never_speaks_in_plain(leader: SecureLeader) -> None:
    async def scenario() -> str:
        async with in_plain() as address:
            said = await ends_with(LearnerOptions.model_validate({"leader": address, "join": leader.token()}))
            assert said == IN_PLAIN.format(address)
            return address

    run(scenario())
    assert leader.enrolled == []


@pytest.mark.parametrize("tls", [True, False])
def test_beyond_loopback_nothing_is_said_in_plain_unless_that_is_meant(
    leader: SecureLeader, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with leader.serving(), in_plain() as plain:
            address = leader.address if tls else plain
            monkeypatch.setattr("learner.trust.access.is_loopback", lambda address: False)
            said = await ends_with(LearnerOptions(leader=address))
            assert said == (ASKS if tls else IN_PLAIN).format(address)
            assert await register(choose(LearnerOptions(leader=plain, insecure=True))) == "a"

    run(scenario())


def test_where_nobody_answers_there_is_nothing_to_tell_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    address = closed_address()
    assert asyncio.run(speaks_tls(address)) is None
    monkeypatch.setattr("learner.trust.access.is_loopback", lambda address: False)
    access = choose(LearnerOptions(leader=address))
    with pytest.raises(UnreachableError, match=f"^nothing answers at {address}$"):
        asyncio.run(access.open())


def test_what_stands_in_front_of_the_leader_is_named() -> None:
    async def scenario() -> None:
        async with in_plain("RBAC: access denied") as address:
            said = await ends_with(LearnerOptions(leader=address))
            assert said == f"the gateway in front of {address} refuses this learner: RBAC: access denied"

    run(scenario())


def test_an_identity_that_the_leader_forgot_joins_again_by_a_token(leader: SecureLeader, home: Path) -> None:
    async def scenario() -> None:
        async with leader.serving():
            await register(choose(leader.options(join=leader.token(), name="clinic-a")))
            leader.manager.forget(trust_pb2.ForgetRequest(name="clinic-a"))
            said = await ends_with(leader.options(name="clinic-a"))
            assert said == "the certificate of clinic-a was replaced or forgotten; join with a new token"
            access = choose(leader.options(join=leader.token(), name="clinic-a"))
            with pytest.raises(NotReadyError, match="was replaced or forgotten"):
                await register(access)
            assert await register(access) == "a"
            assert await register(choose(leader.options())) == "a"
            leader.fleet.revoke("clinic-a")
            said = await ends_with(leader.options(join=leader.token(), name="clinic-a"))
            assert said == "clinic-a was revoked; ask the leader's operator"

    run(scenario())
    assert len(leader.enrolled) == 3
    assert [path.name for path in home.glob("*/*")] == ["clinic-a"]


def test_a_plain_learner_on_loopback_leaves_no_file(home: Path) -> None:
    async def scenario() -> None:
        async with in_plain() as address:
            assert await register(choose(LearnerOptions(leader=address))) == "a"

    run(scenario())
    assert not home.parent.exists()


def issue(leader: SecureLeader, folder: Path, *, begins_s: float, ends_s: float) -> Path:
    """A folder as `leader.trust issue` leaves it, with a certificate of this span around now."""
    key, now, authority = pki.new_key(), time.time(), leader.fleet.authority
    whom = Name(authority.fleet, "learner", "a")
    begins = now + begins_s + pki.SKEW_S
    certificate = pki.issue(
        authority.ca, authority._key, key.public_key(), whom, until=now + ends_s, now=begins
    )
    folder.mkdir(mode=0o700)
    for name, text in (("cert", pki.to_pem(certificate)), ("ca", leader.fleet.roots)):
        (folder / f"{name}.pem").write_bytes(text)
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(pki.key_to_pem(key))
    return folder


def test_a_certificate_that_ended_or_has_not_begun_is_told_before_dialling(
    leader: SecureLeader, tmp_path: Path
) -> None:
    ended = issue(leader, tmp_path / "ended", begins_s=-7200, ends_s=-3600)
    said = refusal(LearnerOptions(leader="192.0.2.1:1", identity=ended))
    assert re.fullmatch(
        r"this learner's certificate ended on 20\d\d-\d\d-\d\d \d\d:\d\d UTC; join again with a new token",
        said,
    )
    early = issue(leader, tmp_path / "early", begins_s=3600, ends_s=7200)
    said = refusal(LearnerOptions(leader="192.0.2.1:1", identity=early))
    assert re.fullmatch(
        r"this learner's certificate is not valid yet: is this machine's clock right \(20.* UTC\)\?", said
    )


def test_an_identity_that_ended_joins_again_under_its_name_and_key(
    leader: SecureLeader, tmp_path: Path
) -> None:
    folder = issue(leader, tmp_path / "ended", begins_s=-7200, ends_s=-3600)
    key = (folder / "key.pem").read_bytes()

    async def scenario() -> None:
        async with leader.serving():
            await register(choose(leader.options(join=leader.token(), identity=folder)))
            await register(choose(leader.options(identity=folder)))

    run(scenario())
    assert len(leader.enrolled) == 1
    assert (folder / "key.pem").read_bytes() == key


def test_a_folder_of_another_leaders_identity_joins_by_a_token_of_this_one(
    leader: SecureLeader, tmp_path: Path
) -> None:
    before = SecureLeader(tmp_path / "before", Registrar().handler())

    async def scenario() -> None:
        for one in (before, leader):
            async with one.serving():
                for _ in range(2):
                    options = one.options(join=one.token(), identity=tmp_path / "i")
                    assert await register(choose(options)) == "a"

    run(scenario())
    assert (len(before.enrolled), len(leader.enrolled)) == (1, 1)


def test_a_folder_without_a_certificate_is_no_identity(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^--identity: .*/typo holds no certificate; join with --join TOKEN$"
    ):
        choose(LearnerOptions(leader="h:1", identity=tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def files_of(leader: SecureLeader, folder: Path, name: str, hours: float = 1.0) -> dict[str, Any]:
    """Options with files of a PKI, which is the leader's here."""
    given = leader.fleet.admit(name, hours=hours)
    folder.mkdir()
    for file, text in (("ca", given.roots), ("certificate", given.certificate), ("key", given.key)):
        (folder / file).write_bytes(text)
    return {file: folder / file for file in ("ca", "certificate", "key")}


def test_files_of_ones_own_pki_are_read_anew_for_each_channel(
    leader: SecureLeader, tmp_path: Path, home: Path
) -> None:
    async def scenario() -> None:
        async with leader.serving():
            files = files_of(leader, tmp_path / "first", "first")
            usual = {"server_name": "leader.flockstep.internal"}
            access = choose(leader.options(**files, **usual))
            assert await register(access) == "a"
            files_of(leader, tmp_path / "second", "second")
            for path in files.values():
                (tmp_path / "second" / path.name).replace(path)
            assert await register(access) == "a"
            nameless = choose(leader.options(**files))
            with pytest.raises(
                ForbiddenError, match=r"certificate of another name; say which with --server-name$"
            ):
                await register(nameless)

    run(scenario())
    assert not home.exists()


def test_a_channel_makes_place_once_the_files_are_replaced(leader: SecureLeader, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with leader.serving():
            files = files_of(leader, tmp_path / "first", "first", hours=20 / 3600)
            access = choose(leader.options(**files))
            async with await access.open() as channel:
                keeping = asyncio.ensure_future(access.keep(channel))
                done, _ = await asyncio.wait((keeping,), timeout=0.2)
                assert not done
                files_of(leader, tmp_path / "second", "second")
                for path in files.values():
                    (tmp_path / "second" / path.name).replace(path)
                await keeping
                assert access.renewed
            await (await access.open()).close()
            assert not access.renewed

    run(scenario())


def test_files_that_do_not_fit_are_told(leader: SecureLeader, tmp_path: Path) -> None:
    first, second = (files_of(leader, tmp_path / name, name) for name in ("first", "second"))

    def wrong(**changed: Path) -> str:
        access = choose(LearnerOptions.model_validate({"leader": "h:1", **first, **changed}))
        with pytest.raises(FlockstepError) as caught:
            asyncio.run(access.open())
        return str(caught.value)

    flags = "--certificate, --key, --ca: "
    assert wrong(key=second["key"]).startswith(f"{flags}[X509: KEY_VALUES_MISMATCH] key values mismatch")
    assert wrong(key=first["ca"]).startswith(f"{flags}[SSL] PEM lib")
    assert wrong(certificate=first["key"]).startswith(f"{flags}[SSL] PEM lib")
    missing = tmp_path / "none"
    assert wrong(ca=missing) == f"{flags}[Errno 2] No such file or directory: '{missing}'"


def test_the_anchor_of_a_token_is_not_kept(leader: SecureLeader, home: Path) -> None:
    async def scenario() -> None:
        async with leader.serving():
            await register(choose(leader.options(join=leader.token())))

    run(scenario())
    [path] = home.glob("*/*/ca.pem")
    assert x509.load_pem_x509_certificate(path.read_bytes()) == leader.fleet.authority.ca
    assert JoinToken.parse(leader.token()).ca_public_key() == leader.fleet.authority.ca.public_key()


@pytest.mark.parametrize("subject", ["ann", "bob"])
def test_a_jwt_takes_up_the_identity_of_its_own_bearer_alone(
    leader: SecureLeader, home: Path, tmp_path: Path, subject: str
) -> None:
    async def scenario() -> None:
        async with leader.serving():
            await register(choose(leader.options(name="ann", join=leader.token())))

    run(scenario())
    jwt = tmp_path / "jwt"
    jwt.write_text(signed(signing_key("ES256"), sub=subject))
    access = choose(leader.options(jwt_file=jwt))
    assert isinstance(access, Enrolled)
    found = access._identity
    assert (found.folder.name == "ann", found.certificate is not None) == (subject == "ann",) * 2
    access.close()


# --- edges ---------------------------------------------------------------------------------


@asynccontextmanager
async def edge(credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    """The address of a server that shows these."""
    server = aio.server()
    server.add_generic_rpc_handlers((Registrar().handler(),))
    async with started(server, credentials) as address:
        yield address


async def reached(access: Access, credentials: grpc.ServerCredentials) -> bool:
    """Whether a learner takes a server with these for an edge of its leader."""
    async with edge(credentials) as address, access.dial(address) as channel:
        try:
            await LeaderStub(channel).get_upload(leader_pb2.UploadRequest(), TIMEOUT_S)
        except aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
            return False
        return True


def test_an_edge_is_known_by_its_role_at_whatever_address(leader: SecureLeader, tmp_path: Path) -> None:
    other = SecureLeader(tmp_path / "other").fleet

    async def scenario() -> None:
        async with leader.serving():
            access = choose(leader.options(join=leader.token()))
            await register(access)
            admit, own = leader.fleet.admit, leader.fleet.authority.server_credentials
            assert await reached(access, admit("edge-1", "aggregator", serves=True).for_server())
            assert await reached(access, own().for_server())  # the leader takes updates as well
            for holder in (
                admit("edge-2", "aggregator"),
                admit("clinic-b", "learner", serves=True),
                other.admit("edge-1", "aggregator", serves=True),
            ):
                assert not await reached(access, holder.for_server())

    run(scenario())


def test_an_edge_is_known_by_its_host_in_a_pki_of_ones_own(leader: SecureLeader, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with leader.serving():
            files = files_of(leader, tmp_path / "first", "first")
            access = choose(leader.options(**files, server_name="leader.flockstep.internal"))
            await register(access)
            named = leader.fleet.authority.server_credentials
            assert await reached(access, named(["127.0.0.1"]).for_server())
            assert not await reached(access, named(["10.0.0.1"]).for_server())

    run(scenario())


def test_nothing_goes_to_another_machine_in_the_clear_unless_that_is_meant() -> None:
    async def scenario() -> None:
        plain, meant = (
            Access(LearnerOptions(leader="localhost:1", insecure=insecure)) for insecure in (False, True)
        )
        for address in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
            await plain.dial(address).close()
        with pytest.raises(ForbiddenError, match=r"^10\.0\.0\.1:1 is another machine; .* add --insecure$"):
            plain.dial("10.0.0.1:1")
        await meant.dial("10.0.0.1:1").close()

    asyncio.run(scenario())
