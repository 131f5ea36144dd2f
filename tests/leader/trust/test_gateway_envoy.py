"""A gateway of the leader's own CA as a real Envoy: whom it lets through as whom, and what it holds back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.identities.bearer import Verify, open_verifier
from leader.trust.identities.callers import Caller, caller_of
from leader.trust.identities.manager import Manager, TrustService
from protos import leader_pb2, trust_pb2
from tests.leader.trust.fleet import ALONE, Fleet, Metadata, ask, connect, held_by, refusal
from tests.leader.trust.gateways import gateway_to
from tests.tools.envoy import Envoy, needs_envoy
from tests.tools.oidc import SigningKey, jwk_of, jwks_of, oidc_issuer, signed, signing_key
from utils.errors import ForbiddenError, UnreachableError
from utils.trust import contract as trust
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.token import JoinToken
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.framing import frame
from utils.wire.status import failures_told

pytestmark = needs_envoy
TIMEOUT_S = 30.0
MIB = 1 << 20
FORGED: Metadata = (
    ("x-forwarded-client-cert", 'Hash=00;Cert="forged";URI=spiffe://x'),
    ("x-forwarded-for", "6.6.6.6"),
)


class Edge:
    """A secure leader with few methods, an Envoy in front of it, and what the methods saw."""

    def __init__(self, folder: Path, limits: LimitsConfig, settings: dict[str, Any]) -> None:
        self.config = RunConfig(trust=TrustConfig(mode="on", **settings), limits=limits)
        self.fleet = Fleet(folder / "trust", self.config.trust)
        self._verify: Verify = open_verifier(self.config.trust)
        self.guard = self.fleet.guard(self.config, verify=self._verify)
        self.callers: list[Caller] = []
        self.headers: list[dict[str, str]] = []
        self.reading = asyncio.Event()
        self.ended = asyncio.Event()
        self.direct = ""  # the leader's own address
        self.address = ""
        self.envoy: Envoy

    async def get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        self.callers.append(caller_of(context))
        self.headers.append({key: str(value) for key, value in context.invocation_metadata() or ()})
        return leader_pb2.WorkOrders()

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        for _ in range(100):
            await context.write(frame(bytes(MIB)))

    async def accumulate(self, messages: AsyncIterator[Any], context: Context) -> leader_pb2.Ack:
        """Reads nothing until it is told to."""
        await self.reading.wait()
        total = 0
        async for message in messages:
            total += len(message)
        return leader_pb2.Ack(message=str(total))

    async def session(self, messages: AsyncIterator[Any], context: Context) -> None:
        await context.write(leader_pb2.LeaderMessage())
        try:
            async for _ in messages:
                await context.write(leader_pb2.LeaderMessage())
        finally:
            self.ended.set()

    async def play(self, folder: Path, scenario: Callable[[Edge], Coroutine[Any, Any, None]]) -> None:
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.GET_WORK: self.get_work,
            contract.GET_MODEL: self.get_model,
            contract.ACCUMULATE: self.accumulate,
            contract.SESSION: self.session,
        }
        service = TrustService(self.fleet.authority, verify=self._verify).handler()
        server = self.fleet.serving(calls, self.guard, self.config, {trust.SERVICE: service})
        async with server as self.direct, asyncio.timeout(TIMEOUT_S):
            with gateway_to(self.direct, self.fleet.authority, folder, self.config) as self.envoy:
                self.address = self.envoy.address
                await scenario(self)


def play(
    folder: Path,
    scenario: Callable[[Edge], Coroutine[Any, Any, None]],
    limits: LimitsConfig | None = None,
    **settings: Any,
) -> Edge:
    async def whole() -> Edge:
        edge = Edge(folder, limits or LimitsConfig(), settings)
        await edge.play(folder / "edge", scenario)
        return edge

    return asyncio.run(whole())


async def join(channel: aio.Channel, fleet: Fleet, name: str) -> Credentials:
    """What somebody holds who joins with a new token of this name."""
    asked = trust_pb2.TokenRequest(name=name, role="learner", uses=1, hours=1)
    token = JoinToken.parse(Manager(fleet.authority).make_token(asked).text)
    key = pki.new_key()
    csr = pki.make_csr(key)
    proof = token.prove(csr)
    return await enrol(channel, key, trust_pb2.EnrolRequest(csr=csr, token_id=token.token_id, proof=proof))


async def enrol(channel: aio.Channel, key: pki.Key, request: trust_pb2.EnrolRequest) -> Credentials:
    with failures_told():
        given = await trust.ENROL.ask(channel, request, TIMEOUT_S)
    return held_by(key, given)


def test_a_caller_is_whom_its_certificate_says_whatever_it_sends(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("ann")) as channel:
            await ask(channel, FORGED)

    edge = play(tmp_path, scenario)
    (caller,), (headers,) = edge.callers, edge.headers
    assert (caller.name, caller.role, caller.place, caller.address) == ("ann", "learner", "ann", "127.0.0.1")
    assert caller.gateway is not None
    assert caller.gateway.name == "edge"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert "forged" not in headers["x-forwarded-client-cert"]


def test_who_has_no_certificate_of_this_ca_does_not_get_past_tls(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        bare = grpc.ssl_channel_credentials(edge.fleet.roots)
        async with aio.secure_channel(edge.address, bare, options=ALONE) as channel:
            assert type(await refusal(channel)) is UnreachableError
        other = Fleet(tmp_path / "other").admit("ann")
        async with connect(
            edge.address, Credentials(other.key, other.certificate, edge.fleet.roots)
        ) as channel:
            assert type(await refusal(channel)) is UnreachableError

    assert play(tmp_path, scenario).callers == []


def test_the_door_leads_to_joining_alone(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.door()) as channel:
            error = await refusal(channel)
            assert (type(error), str(error)) == (
                ForbiddenError,
                "refused on the way to the leader: RBAC: access denied",
            )
            ann = await join(channel, edge.fleet, "ann")
        async with connect(edge.address, ann) as channel:
            await ask(channel)

    assert [caller.name for caller in play(tmp_path, scenario).callers] == ["ann"]


def test_no_gateway_stands_behind_another(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("inner", "gateway")) as channel:
            assert "RBAC: access denied" in str(await refusal(channel, FORGED))

    assert play(tmp_path, scenario).callers == []


def test_whoever_is_revoked_is_so_behind_a_gateway_too(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        ann, bob = edge.fleet.admit("ann"), edge.fleet.admit("bob")
        async with connect(edge.address, ann) as hers, connect(edge.address, bob) as his:
            call = contract.SESSION.open(hers)
            await call.read()
            edge.fleet.revoke("ann")
            edge.guard.review()
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert str(await refusal(hers)) == "ann was revoked; ask the leader's operator"
            await ask(his)

    assert [caller.name for caller in play(tmp_path, scenario).callers] == ["bob"]


def test_a_revoked_gateway_carries_nothing_and_its_callers_try_again(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("ann")) as channel:
            call = contract.SESSION.open(channel)
            await call.read()
            edge.fleet.revoke("edge")
            edge.guard.review()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            error = await refusal(channel)
            assert (type(error).__name__, str(error)) == (
                "NotReadyError",
                "the gateway on the way carries no calls now: edge was revoked; ask the leader's operator",
            )

    assert play(tmp_path, scenario).callers == []


def test_who_calls_too_often_is_stopped_there_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        ann, bob = edge.fleet.admit("ann"), edge.fleet.admit("bob")
        async with connect(edge.address, ann) as hers, connect(edge.address, bob) as his:
            outcomes = await asyncio.gather(*(ask(hers) for _ in range(200)), return_exceptions=True)
            kinds = Counter((type(outcome).__name__, str(outcome)) for outcome in outcomes)
            assert kinds["UnreachableError", "local_rate_limited"] > 100
            assert kinds["NoneType", "None"] <= 20
            await ask(his)

    seen = [caller.name for caller in play(tmp_path, scenario, LimitsConfig(calls_per_s=5)).callers]
    assert seen.count("bob") == 1


def test_connections_are_bounded_and_those_that_say_nothing_end(tmp_path: Path) -> None:
    async def ended(edge: Edge) -> float:
        """Seconds until a connection that says nothing is closed."""
        begun = time.monotonic()
        host, _, port = edge.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        return time.monotonic() - begun

    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("ann")) as channel:
            await ask(channel)
            lives = sorted(await asyncio.gather(*(ended(edge) for _ in range(6))))
            assert max(lives[:3]) < 2.0 < min(lives[3:])  # three beyond the bound end at once
            assert max(lives) < 15.0
            await ask(channel)

    play(tmp_path, scenario, LimitsConfig(connections=4, handshake_s=3.0))


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield frame(bytes(MIB))


def test_a_side_that_does_not_read_fills_no_memory_and_stops_no_other_stream(tmp_path: Path) -> None:
    count = 12

    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("ann")) as channel:
            await ask(channel)
            before = edge.envoy.resident_mib
            ups = [contract.ACCUMULATE.open(channel, chunks(20)) for _ in range(count)]
            downs = [contract.GET_MODEL.open(channel, leader_pb2.Empty()) for _ in range(2)]
            for down in downs:
                await down.read()
            session = contract.SESSION.open(channel)
            for _ in range(20):
                await session.write(leader_pb2.LearnerMessage())
                await session.read()
            assert edge.envoy.resident_mib - before < 3 * (count + len(downs))
            edge.reading.set()
            assert {int(contract.ACCUMULATE.told.read(await up).message) for up in ups} == {20 * MIB}
            for down in downs:
                assert [len(await down.read()) > MIB for _ in range(99)] == [True] * 99
                assert await down.read() is aio.EOF

    play(tmp_path, scenario)


def test_after_a_kill_callers_find_it_again(tmp_path: Path) -> None:
    async def scenario(edge: Edge) -> None:
        async with connect(edge.address, edge.fleet.admit("ann")) as channel:
            call = contract.SESSION.open(channel)
            await call.read()
            edge.envoy.kill()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await edge.ended.wait()  # the leader notices
            assert type(await refusal(channel)) is UnreachableError
            edge.envoy.start()
            request = leader_pb2.WorkRequest()
            await contract.GET_WORK.open(channel, request, timeout=TIMEOUT_S, wait_for_ready=True)

    assert [caller.name for caller in play(tmp_path, scenario).callers] == ["ann"]


def bearer(key: SigningKey, kid: str = "", **claims: Any) -> Metadata:
    return (("authorization", f"Bearer {signed(key, kid, **({'flockstep_role': 'learner'} | claims))}"),)


def bare(edge: Edge) -> aio.Channel:
    """A channel through the gateway without a certificate."""
    tls = grpc.ssl_channel_credentials(edge.fleet.roots)
    return aio.secure_channel(edge.address, tls, options=ALONE)


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_jwt_stands_for_a_certificate_where_the_run_takes_any(tmp_path: Path, algorithm: str) -> None:
    key, other = signing_key(algorithm), signing_key(algorithm)
    (tmp_path / "jwks.json").write_bytes(jwks_of(jwk_of(key)))

    async def scenario(edge: Edge) -> None:
        async with bare(edge) as channel:
            await ask(channel, bearer(key, sub="ann") + FORGED[1:])
            # What the gateway can't know it leaves to the leader.
            observing = await refusal(channel, bearer(key, sub="ann", flockstep_role="observer"))
            assert str(observing) == "ann (observer) may not call GetWork"
            for wrong in (bearer(other), bearer(key, aud="elsewhere"), bearer(key, exp=1000, iat=900)):
                error = await refusal(channel, wrong)
                assert type(error) is ForbiddenError
                assert str(error).startswith("refused on the way to the leader: ")
            assert "RBAC: access denied" in str(await refusal(channel))
            assert "RBAC: access denied" in str(await refusal(channel, FORGED))
            fresh = pki.new_key()
            token = signed(key, sub="bob", flockstep_role="learner")
            held = await enrol(channel, fresh, trust_pb2.EnrolRequest(csr=pki.make_csr(fresh), jwt=token))
        async with connect(edge.address, held) as channel:
            await ask(channel, bearer(key, sub="ann"))  # whoever shows a certificate is that and no more

    edge = play(tmp_path, scenario, jwt_jwks=tmp_path / "jwks.json")
    assert [(caller.name, caller.address) for caller in edge.callers] == [
        ("ann", "127.0.0.1"),
        ("bob", "127.0.0.1"),
    ]
    assert len(edge.headers[1]["x-forwarded-client-cert"]) > 300


def test_an_issuers_keys_are_fetched_from_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def scenario(edge: Edge) -> None:
        async with bare(edge) as channel:
            await ask(channel, bearer(issuer.key, "first", iss=issuer.url, sub="ann"))
            error = await refusal(channel, bearer(signing_key("ES256"), "first", iss=issuer.url))
            assert str(error).startswith("refused on the way to the leader: ")

    with oidc_issuer(tmp_path) as issuer:
        assert [caller.name for caller in play(tmp_path, scenario, jwt_issuer=issuer.url).callers] == ["ann"]


def test_each_learner_is_led_to_one_edge_and_to_another_when_that_is_gone(tmp_path: Path) -> None:
    fleet, config = Fleet(tmp_path / "trust"), RunConfig()
    seen: dict[str, list[str]] = {"east": [], "west": []}

    def calls(edge: str) -> dict[contract.Method[Any, Any], contract.Call]:
        async def get_upload(request: leader_pb2.UploadRequest, context: Context) -> leader_pb2.UploadStatus:
            seen[edge].append(caller_of(context).name)
            return leader_pb2.UploadStatus()

        return {contract.GET_UPLOAD: get_upload}

    async def scenario() -> None:
        async with AsyncExitStack() as stack, AsyncExitStack() as doomed:
            east = await doomed.enter_async_context(fleet.serving(calls("east"), fleet.guard(config), config))
            west = await stack.enter_async_context(fleet.serving(calls("west"), fleet.guard(config), config))
            envoy = stack.enter_context(
                gateway_to("", fleet.authority, tmp_path / "edge", config, edges=[east, west])
            )
            channels = [
                await stack.enter_async_context(connect(envoy.address, fleet.admit(f"learner-{number}")))
                for number in range(24)
            ]
            for _ in range(3):
                for channel in channels:
                    await contract.GET_UPLOAD.ask(channel, leader_pb2.UploadRequest(), TIMEOUT_S)
            number_of = {edge: Counter(names) for edge, names in seen.items()}
            assert all(set(number.values()) == {3} for number in number_of.values())
            assert all(number_of.values())  # none of 24 goes to one of two once in a million runs
            assert len(number_of["east"]) + len(number_of["west"]) == 24
            await doomed.aclose()
            seen["west"].clear()
            for channel in channels:
                await contract.GET_UPLOAD.ask(channel, leader_pb2.UploadRequest(), TIMEOUT_S)
            assert len(seen["west"]) == 24

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))
