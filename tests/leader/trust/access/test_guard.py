"""Calls over real TLS: who is let through to the handler, who is refused with which words, and who is cut off."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.config import LimitsConfig, RunConfig, TrustConfig
from leader.trust.access.guard import Guard
from leader.trust.identities.callers import Caller, caller_of
from protos import leader_pb2, trust_pb2
from tests.leader.trust.fleet import Fleet, ask, connect, refusal
from tests.tools.clock import skip
from utils.errors import BusyError, ForbiddenError, NotReadyError, WireError
from utils.trust import contract as trust
from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME, Identity
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.rpc import raw
from utils.wire.status import failures_told, refuse

TIMEOUT_S = 120.0
GET_WORK = "/leader.LeaderService/GetWork"


class House:
    """A fleet, a guard, and handlers that say who called."""

    def __init__(self, fleet: Fleet, limits: LimitsConfig) -> None:
        self.fleet = fleet
        self.config = RunConfig(trust=TrustConfig(mode="on"), limits=limits)
        self.refused: list[tuple[str, WireError, Caller]] = []
        self.guard: Guard = fleet.guard(self.config, self.refused)
        self.callers: list[Caller] = []
        self.inside = asyncio.Event()  # a session is under way
        self.left = asyncio.Event()  # its handler has ended
        self.address = ""

    async def get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        self.callers.append(caller_of(context))
        if request.token == b"refuse":
            raise NotReadyError("not now")
        if request.token == b"slow":
            raise TimeoutError("the handler's own")
        return leader_pb2.WorkOrders()

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        await context.write(b"1" * 600)
        self.guard.down_quota.count(600)

    async def session(self, messages: Any, context: Context) -> None:
        await context.write(leader_pb2.LeaderMessage())
        self.inside.set()
        try:
            async for _ in messages:
                await context.write(leader_pb2.LeaderMessage())
        finally:
            self.left.set()

    async def enrol(self, request: trust_pb2.EnrolRequest, context: Context) -> trust_pb2.Credential:
        self.callers.append(caller_of(context))
        if request.token_id:
            raise ForbiddenError("no such token")
        return trust_pb2.Credential()

    async def renew(self, request: trust_pb2.RenewRequest, context: Context) -> trust_pb2.Credential:
        return trust_pb2.Credential()


def play(
    folder: Path, scenario: Callable[[House], Coroutine[Any, Any, None]], limits: LimitsConfig | None = None
) -> House:
    async def whole() -> House:
        house = House(Fleet(folder), limits or LimitsConfig())
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.GET_WORK: house.get_work,
            contract.SESSION: house.session,
            contract.GET_MODEL: house.get_model,
        }
        certifying: dict[contract.Method[Any, Any], contract.Call] = {
            trust.ENROL: house.enrol,
            trust.RENEW: house.renew,
        }
        handler = contract.serve(certifying, lambda name, context, why: refuse(context, why))
        server = house.fleet.serving(calls, house.guard, house.config, {trust.SERVICE: handler})
        async with server as house.address, asyncio.timeout(TIMEOUT_S):
            await scenario(house)
        return house

    return asyncio.run(whole())


def test_a_handler_knows_the_identity_and_not_what_the_client_says(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            await ask(channel)

    (caller,) = play(tmp_path, scenario).callers
    assert (caller.name, caller.role, caller.address, caller.place) == ("ann", "learner", "127.0.0.1", "ann")
    assert caller.known
    assert caller.until == pytest.approx(time.time() + 3600, abs=60)


def test_a_role_that_may_not_is_refused_by_name_and_counted(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("eve", "observer")) as channel:
            error = await refusal(channel)
        assert type(error) is ForbiddenError
        assert str(error) == "eve (observer) may not call GetWork"

    house = play(tmp_path, scenario)
    assert house.callers == []
    ((method, error, caller),) = house.refused
    assert (method, type(error), caller.name) == ("GetWork", ForbiddenError, "eve")


def test_nobody_without_a_certificate_of_the_fleet_reaches_python(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        stranger = Fleet(tmp_path / "other").admit("ann")
        mixed = type(stranger)(stranger.key, stranger.certificate, house.fleet.roots)
        async with connect(house.address, mixed) as channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await contract.GET_WORK.ask(channel, leader_pb2.WorkRequest(), TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with aio.insecure_channel(house.address) as channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await contract.GET_WORK.ask(channel, leader_pb2.WorkRequest(), TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    assert play(tmp_path / "ours", scenario).refused == []


def test_the_door_opens_nothing_but_enrolling(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.door()) as channel:
            assert str(await refusal(channel)) == "a caller with role 'door' may not call GetWork"

    assert play(tmp_path, scenario).callers == []


def test_a_certificate_of_the_ca_that_is_not_in_the_records_is_refused(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        forged = house.fleet.signed(Identity(house.fleet.authority.fleet, "admin", "root"))
        async with connect(house.address, forged) as channel:
            error = await refusal(channel)
        assert type(error) is ForbiddenError
        assert "the certificate of root" in str(error)

    play(tmp_path, scenario)


def test_one_that_ends_is_cut_off_in_the_middle_of_a_call(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann", hours=60.0 / 3600)) as channel:
            call = contract.SESSION.open(channel)
            await call.read()
            for seconds in (0.0, 30.0):
                skip(seconds)
                await call.write(leader_pb2.LearnerMessage())
                assert await call.read() is not aio.EOF
            skip(30.0)
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "the certificate of ann ended on" in await call.details()
            await house.left.wait()

    (refused,) = play(tmp_path, scenario).refused
    assert refused[0] == "Session"


def test_revoking_ends_an_open_stream_and_every_later_call(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        fleet = house.fleet
        async with (
            connect(house.address, fleet.admit("ann")) as anns,
            connect(house.address, fleet.admit("bob")) as bobs,
        ):
            call = contract.SESSION.open(anns)
            await call.read()
            other = contract.SESSION.open(bobs)
            await other.read()
            fleet.revoke("ann")
            house.guard.review()
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert await call.details() == "leader: ann was revoked; ask the leader's operator"
            await house.left.wait()
            assert isinstance(await refusal(anns), ForbiddenError)
            await ask(bobs)
            assert not other.done()

    play(tmp_path, scenario)


def test_a_key_that_was_replaced_counts_no_more(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann")) as old:
            await ask(old)
            house.fleet.admit("ann")
            assert "was replaced" in str(await refusal(old))

    play(tmp_path, scenario)


def test_a_state_that_is_damaged_lets_nobody_in_until_it_is_mended(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            path = tmp_path / "state.json"
            good = path.read_bytes()
            path.write_bytes(good[:-9])
            error = await refusal(channel)
            assert type(error) is NotReadyError
            assert "is damaged" in str(error)
            path.write_bytes(good)
            await ask(channel)

    play(tmp_path, scenario)


def test_too_many_calls_are_told_when_to_try_again_and_others_go_on(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        fleet = house.fleet
        async with (
            connect(house.address, fleet.admit("ann")) as anns,
            connect(house.address, fleet.admit("bob")) as bobs,
        ):
            house.guard._calls._clock = lambda: 1000.0
            for _ in range(2):
                await ask(anns)
            error = await refusal(anns)
            assert isinstance(error, BusyError)
            assert error.retry_after_s == 1.0
            await ask(bobs)

    play(tmp_path, scenario, LimitsConfig(calls_per_s=1))


def test_certificates_are_bounded_for_each_identity(tmp_path: Path) -> None:
    """Each is written to the state, which all calls read anew then."""

    async def renew(channel: aio.Channel) -> None:
        with failures_told():
            await trust.RENEW.ask(channel, trust_pb2.RenewRequest(), TIMEOUT_S)

    async def scenario(house: House) -> None:
        fleet = house.fleet
        async with (
            connect(house.address, fleet.admit("ann")) as anns,
            connect(house.address, fleet.admit("127.0.0.1")) as others,
        ):
            for _ in range(2):
                await renew(anns)
            with pytest.raises(BusyError, match=r"more than 2 enrolments a minute"):
                await renew(anns)
            await ask(anns)
            for _ in range(2):
                await renew(others)
        async with connect(house.address, fleet.door()) as channel:
            await trust.ENROL.ask(channel, trust_pb2.EnrolRequest(), TIMEOUT_S)  # whose name is no address

    play(tmp_path, scenario, LimitsConfig(enrolments_per_min=2))


def test_calls_at_once_are_bounded_for_each_identity(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        fleet = house.fleet
        async with (
            connect(house.address, fleet.admit("ann")) as anns,
            connect(house.address, fleet.admit("bob")) as bobs,
        ):
            calls = [contract.SESSION.open(anns) for _ in range(2)]
            for call in calls:
                await call.read()
            assert str(await refusal(anns)) == "2 calls are under way already (limits.calls_at_once)"
            await ask(bobs)
            await calls[0].done_writing()
            assert await calls[0].code() is grpc.StatusCode.OK
            await ask(anns)

    play(tmp_path, scenario, LimitsConfig(calls_at_once=2))


def test_the_door_is_slammed_on_an_address_that_knocks_in_vain(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.door()) as channel:
            kinds = [type(await refusal(channel)) for _ in range(5)]
        assert kinds == [ForbiddenError] * 5  # its role is looked at first
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            await ask(channel)

    assert len(play(tmp_path, scenario, LimitsConfig(refusals_per_min=3)).refused) == 3


def test_what_the_handler_raises_is_told_as_without_a_guard(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with connect(house.address, house.fleet.admit("ann")) as channel:
            assert type(await refusal(channel, token=b"refuse")) is NotReadyError
            call = contract.GET_WORK.open(channel, leader_pb2.WorkRequest(token=b"slow"))
            assert await call.code() is grpc.StatusCode.UNKNOWN
            for path, code in ((GET_WORK, "INVALID_ARGUMENT"), ("/leader.LeaderService/No", "UNIMPLEMENTED")):
                garbage = channel.unary_unary(path, raw, raw)(b"\xff\xff")
                assert (await garbage.code()).name == code

    play(tmp_path, scenario)


def test_a_quota_is_each_identitys_and_a_download_that_began_ends(tmp_path: Path) -> None:
    async def fetch(channel: aio.Channel) -> None:
        with failures_told():
            async for _ in contract.GET_MODEL.open(channel, leader_pb2.Empty()):
                pass

    async def scenario(house: House) -> None:
        fleet = house.fleet
        async with (
            connect(house.address, fleet.admit("ann")) as anns,
            connect(house.address, fleet.admit("bob")) as bobs,
        ):
            for _ in range(2):
                await fetch(anns)
            with pytest.raises(BusyError, match=r"limits.download_bytes_per_hour") as caught:
                await fetch(anns)
            assert caught.value.retry_after_s == pytest.approx(200 * 3.6, abs=60)  # 1200 of 1000 bytes
            await ask(anns)
            await fetch(bobs)

    play(tmp_path, scenario, LimitsConfig(download_bytes_per_hour=1000))


def by_hand(address: str, credentials: Credentials, folder: Path, version: ssl.TLSVersion) -> bytes:
    """What a call of GetWork is answered over a TLS version that gRPC's own clients would not choose."""
    for name in ("roots", "key", "certificate"):
        (folder / f"{name}.pem").write_bytes(getattr(credentials, name))
    context = ssl.create_default_context(cafile=str(folder / "roots.pem"))
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    words = {
        ":method": "POST",
        ":scheme": "https",
        ":path": GET_WORK,
        ":authority": TLS_NAME,
        "te": "trailers",
    }
    words["content-type"] = "application/grpc"
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(word)]) + word.encode()
        for name, word in words.items()
    )
    frames = [(4, 0, 0, b""), (1, 4, 1, block), (0, 1, 1, bytes(5))]  # SETTINGS, HEADERS, an empty message
    text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(
        len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body
        for kind, flags, stream, body in frames
    )
    with (
        socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=TLS_NAME) as tls,
    ):
        tls.sendall(text)
        answer = b""
        while b"grpc-status" not in answer:
            answer += tls.recv(4096)
        return answer


def test_a_client_of_tls_1_2_is_refused_with_words(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        ann = house.fleet.admit("ann")
        old = await asyncio.to_thread(by_hand, house.address, ann, tmp_path, ssl.TLSVersion.TLSv1_2)
        assert b"leader: this leader speaks TLS 1.3 alone; update gRPC there" in old
        assert house.callers == []
        new = await asyncio.to_thread(by_hand, house.address, ann, tmp_path, ssl.TLSVersion.TLSv1_3)
        assert b"TLS 1.3 alone" not in new
        assert [caller.name for caller in house.callers] == ["ann"]

    play(tmp_path / "trust", scenario)
