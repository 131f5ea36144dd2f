from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

from grpc import aio

from leader.config import RunConfig, TrustConfig
from leader.trust.identities.callers import Caller, caller_of
from protos import leader_pb2
from tests.leader.trust.fleet import Fleet, ask, connect, refusal
from utils.errors import ForbiddenError
from utils.trust.credentials import Credentials
from utils.trust.names import Identity
from utils.wire import contract
from utils.wire.contract import Context

TIMEOUT_S = 20.0
CERT, SEEN = "x-forwarded-client-cert", "x-forwarded-for"


def element(held: Credentials, before: str = "Hash=00;", after: str = "") -> str:
    """What a gateway says of whoever holds this."""
    return f'{before}Cert="{quote(held.certificate.decode(), safe="")}"{after}'


def play(folder: Path, scenario: Callable[[Fleet, str], Coroutine[Any, Any, None]]) -> list[Caller]:
    """The callers that a leader saw whose address the scenario is given."""
    callers: list[Caller] = []

    async def get_work(request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        callers.append(caller_of(context))
        return leader_pb2.WorkOrders()

    async def whole() -> None:
        config = RunConfig(trust=TrustConfig(mode="on"))
        fleet = Fleet(folder, config.trust)
        server = fleet.serving({contract.GET_WORK: get_work}, fleet.guard(config), config)
        async with server as address, asyncio.timeout(TIMEOUT_S):
            await scenario(fleet, address)

    asyncio.run(whole())
    return callers


async def forbidden(channel: aio.Channel, *metadata: tuple[str, str]) -> str:
    error = await refusal(channel, metadata)
    assert type(error) is ForbiddenError
    return str(error)


def test_a_gateway_tells_certificate_and_address_of_whom_it_carries(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, address: str) -> None:
        ann, bob = fleet.admit("ann"), fleet.admit("bob", "aggregator")
        async with connect(address, fleet.admit("edge", "gateway", hours=0.5)) as channel:
            await ask(channel, ((CERT, element(ann)), (SEEN, "6.6.6.6, 10.0.0.7")))
            await ask(channel, ((CERT, element(bob, "", ";URI=spiffe://x/y;By=")), (SEEN, "fd00::7")))
            await ask(channel, ((CERT, element(ann)),))

    ann, bob, near = play(tmp_path, scenario)
    assert (ann.name, ann.role, ann.address, ann.place) == ("ann", "learner", "10.0.0.7", "ann")
    assert (bob.name, bob.role, bob.address, bob.place) == ("bob", "aggregator", "fd00::7", "bob")
    assert near.address == "127.0.0.1"  # the gateway's own
    assert ann.gateway is not None
    assert ann.until == ann.gateway.until < time.time() + 0.6 * 3600  # what ends first


def test_nobody_else_may_say_who_calls(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, address: str) -> None:
        ann = element(fleet.admit("ann", "admin"))
        for held in (fleet.admit("eve"), fleet.admit("op", "operator"), fleet.door()):
            async with connect(address, held) as channel:
                assert await forbidden(channel, (CERT, ann)) == (
                    "x-forwarded-client-cert is a gateway's word, and this caller is none; leave it out"
                )

    assert play(tmp_path, scenario) == []


def test_nobody_but_a_gateway_says_where_a_caller_is(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, address: str) -> None:
        async with connect(address, fleet.admit("ann")) as channel:
            await ask(channel, ((SEEN, "10.0.0.7"),))

    (caller,) = play(tmp_path, scenario)
    assert (caller.address, caller.gateway) == ("127.0.0.1", None)


def test_a_carried_certificate_is_checked_as_one_of_a_connection_is(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, address: str) -> None:
        other = Fleet(tmp_path / "other").admit("ann")
        ended = fleet.signed(Identity(fleet.authority.fleet, "learner", "old"), until=time.time() - 1)
        unknown = fleet.signed(Identity(fleet.authority.fleet, "learner", "new"))
        revoked = fleet.admit("eve")
        fleet.revoke("eve")
        async with connect(address, fleet.admit("edge", "gateway")) as channel:

            async def words(held: Credentials) -> str:
                return await forbidden(channel, (CERT, element(held)))

            assert "is not an identity of" in await words(other)
            assert (await words(ended)).startswith("the certificate of old ended on ")
            assert "new" in await words(unknown)
            assert await words(revoked) == "eve was revoked; ask the leader's operator"
            assert await words(fleet.admit("ann", "observer")) == "ann (observer) may not call GetWork"
            assert await words(fleet.admit("in", "gateway")) == "in (gateway) may not call GetWork"
            assert await words(fleet.door()) == "a caller with role 'door' may not call GetWork"

    assert play(tmp_path / "trust", scenario) == []


def test_a_header_that_is_not_one_element_is_refused(tmp_path: Path) -> None:
    async def scenario(fleet: Fleet, address: str) -> None:
        ann, bob = element(fleet.admit("ann")), element(fleet.admit("bob"))
        damaged = 'Hash=00;Cert="-----BEGIN%20CERTIFICATE-----"'
        async with connect(address, fleet.admit("edge", "gateway")) as channel:
            for header in (
                "",
                "Hash=00",
                f"{ann},{bob}",
                f"{ann};{bob}",
                f"{ann},",
                ann.replace('"', ""),
                "x" + ann[5:],
            ):
                assert "is not one element with Cert" in await forbidden(channel, (CERT, header))
            assert "2 headers x-forwarded-client-cert" in await forbidden(channel, (CERT, ann), (CERT, ann))
            assert "is not a certificate in PEM" in await forbidden(channel, (CERT, damaged))
            assert "may not call GetWork" in await forbidden(channel)

    assert play(tmp_path, scenario) == []
