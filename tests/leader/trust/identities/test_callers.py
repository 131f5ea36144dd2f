"""Callers with a JWT, over real TLS: on the port that asks for no certificate, and behind a gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.identities.bearer import Claims, Verify, open_verifier
from leader.trust.identities.callers import Caller, caller_of
from leader.trust.identities.manager import TrustService
from protos import leader_pb2, trust_pb2
from tests.leader.trust.fleet import ALONE, Fleet, Metadata, ask, connect, held_by, refusal
from tests.tools.clock import skip
from tests.tools.oidc import jwk_of, jwks_of, oidc_issuer, signed, signing_key
from tests.tools.ports import free_port
from utils.errors import BusyError, EndedError, ForbiddenError, NotReadyError, WireError
from utils.trust import contract as trust
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.status import failures_told

TIMEOUT_S = 120.0
KEY = signing_key("EdDSA")


class House:
    """A secure leader that takes the JWTs of one key, and what its handlers saw."""

    def __init__(self, folder: Path, limits: LimitsConfig, **trust_config: Any) -> None:
        (folder / "jwks.json").write_bytes(jwks_of(jwk_of(KEY)))
        self.token_port, self.plain_port = (f"127.0.0.1:{free_port()}" for _ in range(2))
        given = {"jwt_jwks": folder / "jwks.json", "jwt_listen": self.token_port} | trust_config
        settings = TrustConfig(mode="on", plain_listen=self.plain_port, jwt_cert_hours=2.0, **given)
        self.config = RunConfig(trust=settings, limits=limits)
        self.fleet = Fleet(folder / "trust", settings)
        self._verifier: Verify = open_verifier(settings)
        self.verified = 0
        self.refused: list[tuple[str, WireError, Caller]] = []
        self.guard = self.fleet.guard(self.config, self.refused, self.verify)
        self.callers: list[Caller] = []
        self.left = asyncio.Event()
        self.address = ""

    async def verify(self, token: str) -> Claims:
        self.verified += 1
        return await self._verifier(token)

    async def get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        self.callers.append(caller_of(context))
        return leader_pb2.WorkOrders()

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        self.callers.append(caller_of(context))

    async def session(self, messages: Any, context: Context) -> None:
        await context.write(leader_pb2.LeaderMessage())
        try:
            async for _ in messages:
                await context.write(leader_pb2.LeaderMessage())
        finally:
            self.left.set()

    def open(self) -> aio.Channel:
        """A channel to the port for tokens, without a certificate."""
        return aio.secure_channel(
            self.token_port, grpc.ssl_channel_credentials(self.fleet.roots), options=ALONE
        )


def play(
    folder: Path,
    scenario: Callable[[House], Coroutine[Any, Any, None]],
    limits: LimitsConfig | None = None,
    **trust_config: Any,
) -> House:
    async def whole() -> House:
        house = House(folder, limits or LimitsConfig(), **trust_config)
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.GET_WORK: house.get_work,
            contract.GET_MODEL: house.get_model,
            contract.SESSION: house.session,
        }
        service = TrustService(house.fleet.authority, verify=house.verify).handler()
        server = house.fleet.serving(calls, house.guard, house.config, {trust.SERVICE: service})
        async with server as house.address, asyncio.timeout(TIMEOUT_S):
            await scenario(house)
        return house

    return asyncio.run(whole())


def bearer(**claims: Any) -> Metadata:
    return (("authorization", f"Bearer {signed(KEY, **({'flockstep_role': 'learner'} | claims))}"),)


async def enrol(channel: aio.Channel, metadata: Metadata = (), **claims: Any) -> Credentials:
    """What is held after a JWT was exchanged."""
    key = pki.new_key()
    token = signed(KEY, **({"flockstep_role": "learner"} | claims))
    request = trust_pb2.EnrolRequest(csr=pki.make_csr(key), jwt=token)
    with failures_told():
        answer = await trust.ENROL.open(channel, request, timeout=TIMEOUT_S, metadata=metadata)
    return held_by(key, trust.ENROL.told.read(answer))


def test_a_jwt_says_who_calls_and_until_when(tmp_path: Path) -> None:
    end = int(time.time()) + 100

    async def scenario(house: House) -> None:
        async with house.open() as channel:
            await ask(channel, bearer(sub="ann", exp=end))
            await ask(
                channel, tuple((key, value.replace("Bearer", "bearer")) for key, value in bearer(sub="bob"))
            )

    ann, bob = play(tmp_path, scenario).callers
    assert ann == Caller("ann", "learner", "127.0.0.1", "ann", float(end))
    assert (ann.known, ann.bearer, bob.name) == (True, True, "bob")


def test_roles_count_as_with_a_certificate(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.open() as channel:
            for role in ("observer", "operator", "admin"):
                error = await refusal(channel, bearer(flockstep_role=role))
                assert (type(error), str(error)) == (ForbiddenError, f"ann ({role}) may not call GetWork")
            error = await refusal(channel, bearer(flockstep_role="gateway"))
            assert "flockstep_role is none of" in str(error)

    house = play(tmp_path, scenario)
    assert house.callers == []
    assert [caller.name for *_, caller in house.refused] == ["ann", "ann", "ann", ""]


def test_without_a_jwt_one_may_be_exchanged_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.open() as channel:
            assert str(await refusal(channel)) == "a caller with role 'door' may not call GetWork"
            for header in ("Basic YTpi", "Bearer", "", signed(KEY)):
                assert type(await refusal(channel, (("authorization", header),))) is ForbiddenError
            error = await refusal(channel, bearer(sub="ann") + bearer(sub="bob"))
            assert str(error) == "this call has 2 headers authorization; send one"
            with pytest.raises(ForbiddenError, match="this JWT is refused: its signature"):
                await trust_exchange_of_another_key(channel)

    assert play(tmp_path, scenario).callers == []


async def trust_exchange_of_another_key(channel: aio.Channel) -> None:
    request = trust_pb2.EnrolRequest(csr=pki.make_csr(pki.new_key()), jwt=signed(signing_key("EdDSA")))
    with failures_told():
        await trust.ENROL.ask(channel, request, TIMEOUT_S)


def test_a_jwt_is_exchanged_for_a_certificate_that_counts_on_the_main_port(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.open() as channel:
            held = await enrol(channel, sub="ann")
            again = await enrol(channel, bearer(sub="ann"), sub="ann")  # call credentials do no harm
        certificate = pki.from_pem(held.certificate)
        assert pki.identity_of(certificate, house.fleet.authority.ca).name == "ann"
        assert 3600 < pki.ends_at(certificate) - time.time() <= 2 * 3600  # trust.jwt_cert_hours
        async with connect(house.address, again) as channel:
            await ask(channel)
        async with connect(house.address, held) as channel:
            assert "was replaced" in str(await refusal(channel))  # the issuer says who ann is: the newest key
        async with house.open() as channel:
            await ask(channel, bearer(sub="ann"))  # whose identity came by a JWT

    asked = play(tmp_path, scenario).callers
    assert [(caller.name, caller.bearer) for caller in asked] == [("ann", False), ("ann", True)]


def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.open() as channel:
            call = contract.SESSION.open(channel, metadata=bearer(sub="ann", exp=time.time() + 60))
            await call.read()
            for seconds in (0.0, 30.0):
                skip(seconds)
                await call.write(leader_pb2.LearnerMessage())
                assert await call.read() is not aio.EOF
            skip(30.0)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert (await call.details()).startswith("leader: the JWT of ann ended on ")
            await house.left.wait()
            error = await refusal(channel, bearer(sub="ann", exp=time.time() - 1))
            assert (type(error), str(error)) == (EndedError, "this JWT has ended; get a new one")
            await ask(channel, bearer(sub="ann"))

    (method, error, caller), _ = play(tmp_path, scenario).refused
    assert (method, type(error), caller.name) == ("Session", EndedError, "ann")


def test_whoever_is_revoked_is_let_in_by_no_jwt(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.open() as channel:
            await enrol(channel, sub="ann")
            call = contract.SESSION.open(channel, metadata=bearer(sub="ann"))
            await call.read()
            house.fleet.revoke("ann")
            house.guard.review()
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert (
                str(await refusal(channel, bearer(sub="ann"))) == "ann was revoked; ask the leader's operator"
            )

    play(tmp_path, scenario)


def test_a_jwt_speaks_for_no_identity_that_came_otherwise(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        house.fleet.admit("ann")
        async with house.open() as channel:
            assert "ann is an identity that came by no JWT" in str(await refusal(channel, bearer(sub="ann")))
            with pytest.raises(ForbiddenError, match="'ann' is another key's"):
                await enrol(channel, sub="ann")

    play(tmp_path, scenario)


def test_whoever_shows_a_certificate_is_that_and_no_more(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann", "observer")) as channel:
            error = await refusal(channel, bearer(sub="bob"))
            assert str(error) == "ann (observer) may not call GetWork"
        async with connect(house.address, house.fleet.door()) as channel:
            error = await refusal(channel, bearer(sub="bob"))
            assert str(error) == "a caller with role 'door' may not call GetWork"
        async with aio.insecure_channel(house.plain_port) as channel:
            assert "role 'plain'" in str(await refusal(channel, bearer(sub="bob")))  # tokens want TLS

    assert play(tmp_path, scenario).verified == 0


def test_a_gateway_carries_the_jwts_of_others(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("edge", "gateway")) as channel:
            seen = (("x-forwarded-for", "6.6.6.6, 10.0.0.7"),)  # the first is the client's own word
            await ask(channel, bearer(sub="ann") + seen)
            error = await refusal(channel, seen)
            assert str(error) == "a caller with role 'door' may not call GetWork"
            error = await refusal(channel, (("authorization", f"Bearer {signed(signing_key('EdDSA'))}"),))
            assert "its signature is not its issuer's" in str(error)
            house.fleet.revoke("edge")
            assert "edge was revoked" in str(await refusal(channel, bearer(sub="ann")))

    (caller,) = play(tmp_path, scenario).callers
    assert (caller.name, caller.address, caller.place) == ("ann", "10.0.0.7", "ann")


def test_whoever_sends_too_many_bad_tokens_is_refused_unread(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        bad = (("authorization", f"Bearer {signed(signing_key('EdDSA'))}"),)
        async with house.open() as channel:
            kinds = [type(await refusal(channel, bad)) for _ in range(8)]
        assert kinds == [ForbiddenError] * 3 + [BusyError] * 5
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            await ask(channel)  # from the same address

    assert play(tmp_path, scenario, LimitsConfig(refusals_per_min=3)).verified == 3


def test_strangers_who_never_finish_asking_take_no_place_from_others(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        channels = [house.open() for _ in range(4)]
        # Headers, and no request after them; more than the server answers at once.
        silent: list[Any] = [
            channel.stream_unary("/leader.LeaderService/GetWork")() for channel in channels for _ in range(32)
        ]
        for call in silent:
            assert (await call.code()).name in (
                "PERMISSION_DENIED",
                "RESOURCE_EXHAUSTED",
            )  # not left standing
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            await ask(channel)
        knocking: Any = channels[0].stream_unary("/trust.TrustService/Enrol")()
        assert await knocking.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await knocking.details() == "leader: no whole request in 0.5 s (limits.hello_s); call again"
        for channel in channels:
            await channel.close()

    play(tmp_path, scenario, LimitsConfig(hello_s=0.5, max_learners=1, refusals_per_min=1000))


def test_an_issuer_that_is_down_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with oidc_issuer(tmp_path) as issuer:
        pass

    async def scenario(house: House) -> None:
        async with house.open() as channel:
            error = await refusal(channel, bearer(iss=issuer.url))
            assert type(error) is NotReadyError
            assert str(error) == f"the keys of {issuer.url} can't be fetched; try again in a minute"

    play(tmp_path, scenario, jwt_jwks=None, jwt_issuer=issuer.url)


def test_a_leader_that_takes_no_jwt_says_so(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("edge", "gateway")) as channel:
            assert str(await refusal(channel, bearer())) == "this leader takes no JWT; join with a token"
        async with connect(house.address, house.fleet.door()) as channel:
            with pytest.raises(ForbiddenError, match="this leader takes no JWT"):
                await enrol(channel)

    play(tmp_path, scenario, jwt_jwks=None, jwt_listen="")
