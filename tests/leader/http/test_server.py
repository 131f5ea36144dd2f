"""Requests over real sockets to a service of the test's own, behind a real guard."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from http.client import HTTPSConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from leader.config import HttpConfig, LimitsConfig
from leader.http.calls import STATUS, Calls
from leader.http.routes import Api
from leader.http.server import serving_http
from leader.trust.access.guard import Guard
from leader.trust.identities.callers import Anybody, Caller
from protos import leader_pb2
from tests.http_learner import Requests
from tests.leader.trust.fleet import Fleet
from utils.errors import ConfigError, LateUpdateError, WireError
from utils.trust.credentials import Credentials
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.framing import frame
from utils.wire.status import STATUS as GRPC_STATUS
from utils.wire.status import refuse

LIMITS = LimitsConfig(calls_per_s=1e6)


class House:
    """A service that says what becomes of its calls."""

    def __init__(self) -> None:
        self.inside = asyncio.Event()
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refused: list[tuple[str, WireError, Caller]] = []
        self.got: list[int] = []  # bytes of each piece of an update

    async def work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        """Waits until it may go on, or fails."""
        self.inside.set()
        if request.wait_s == 7:
            raise ValueError("a mistake of the leader's own")
        try:
            await self.go_on.wait()
        finally:
            self.left.set()
        return leader_pb2.WorkOrders(over=True)

    async def model(self, request: leader_pb2.Empty, context: Context) -> None:
        """A piece, and then a refusal."""
        await context.send_initial_metadata(())
        await context.write(frame(b"piece"))
        if request.version:
            raise LateUpdateError("gone")

    async def update(self, messages: Any, context: Context) -> leader_pb2.Ack:
        """Reads the header, and the rest once it may go on."""
        try:
            await anext(messages)
            self.inside.set()
            await self.go_on.wait()
            async for message in messages:
                self.got.append(len(message))
        finally:
            self.left.set()
        return leader_pb2.Ack(success=True)

    async def refuse(self, method: str, context: Context, error: WireError) -> None:
        await refuse(context, error)

    def api(self) -> Api:
        """All that, behind a guard."""
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.GET_WORK: self.work,
            contract.GET_MODEL: self.model,
            contract.ACCUMULATE: self.update,
        }
        guard = Guard(Anybody(), LIMITS, lambda *what: self.refused.append(what))
        return Api(Calls(contract.serve(calls, self.refuse), guard))


Scenario = Callable[[House, Requests], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> House:
    async def whole() -> House:
        house = House()
        async with serving_http(HttpConfig(listen="127.0.0.1:0"), LIMITS, house.api(), None) as address:
            async with asyncio.timeout(30):
                await scenario(house, Requests(f"http://{address}"))
        return house

    return asyncio.run(whole())


def dial(requests: Requests, text: str) -> socket.socket:
    host, port = requests.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(text.replace("\n", "\r\n").encode())
    return connection


def test_every_error_has_a_status() -> None:
    assert {kind.__name__ for kind in GRPC_STATUS} == STATUS.keys()


@pytest.mark.parametrize(
    "text",
    [
        "GET /work HTTP/1.1\nhost: 127.0.0.1\n\n",
        "POST /aggregate?work_id=w HTTP/1.1\nhost: 127.0.0.1\ncontent-length: 9\n\nhalf",
    ],
)
def test_the_call_of_a_caller_that_goes_ends(text: str) -> None:
    async def scenario(house: House, requests: Requests) -> None:
        with dial(requests, text):
            await house.inside.wait()
            if text.startswith("POST"):
                house.go_on.set()  # it waits for the other half
        await house.left.wait()

    house = play(scenario)
    assert (sum(house.got), house.refused) == (4 if text.startswith("POST") else 0, [])


def test_an_update_is_not_taken_in_before_it_is_read() -> None:
    most, chunk = 64 << 20, bytes(1 << 20)

    def fill(connection: socket.socket) -> int:
        connection.settimeout(0.5)
        sent = 0
        try:
            while sent < most:
                sent += connection.send(chunk[: most - sent])
        except TimeoutError:
            pass
        return sent

    async def scenario(house: House, requests: Requests) -> None:
        head = f"POST /aggregate?work_id=w HTTP/1.1\nhost: 127.0.0.1\ncontent-length: {most}\n\n"
        with dial(requests, head) as connection:
            await house.inside.wait()
            sent = await asyncio.to_thread(fill, connection)
            assert sent < most / 2  # what the system's buffers hold
            house.go_on.set()
            connection.settimeout(30)
            await asyncio.to_thread(connection.sendall, bytes(most - sent))
            await house.left.wait()
            assert (await asyncio.to_thread(connection.recv, 1000)).startswith(b"HTTP/1.1 200 ")

    assert sum(play(scenario).got) == most


def test_who_asks_before_it_sends_is_refused_before_that() -> None:
    async def scenario(house: House, requests: Requests) -> None:
        head = "POST /aggregate HTTP/1.1\nhost: 127.0.0.1\nexpect: 100-continue\ncontent-length: 9999\n\n"
        with dial(requests, head) as connection:
            assert (await asyncio.to_thread(connection.recv, 1000)).startswith(b"HTTP/1.1 400 ")

    play(scenario)


def test_a_file_whose_rest_is_refused_ends_too_early() -> None:
    async def scenario(house: House, requests: Requests) -> None:
        assert (await requests.get("/model")).body == b"piece"
        with pytest.raises(IncompleteRead):
            await requests.get("/model", version=1)

    play(scenario)


def test_a_mistake_of_the_leaders_own_is_told_to_its_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(house: House, requests: Requests) -> None:
        answer = await requests.get("/work", wait_s=7)
        assert (answer.status, answer.said["message"]) == (500, "the server failed; its log says why")

    play(scenario)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "a request for GetWork failed"
    ]
    assert "a mistake of the leader's own" in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_call(headers: Mapping[str, str], status: int) -> None:
    async def scenario(house: House, requests: Requests) -> None:
        assert (await requests.ask("GET", "/model", headers=headers)).status == status

    play(scenario)


def test_requests_that_are_none_are_refused_and_no_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(house: House, requests: Requests) -> None:
        for text in (
            "NONSENSE\n\n",
            f"GET /work HTTP/1.1\nhost: h\nx: {'y' * 40_000}",
            "\0" * 50 + "\n\n",
        ):
            with dial(requests, text) as connection:
                assert (await asyncio.to_thread(connection.recv, 1000)).startswith(b"HTTP/1.1 400 ")

    play(scenario)
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_a_taken_port_and_a_certificate_that_is_none_are_told(tmp_path: Path) -> None:
    own = Fleet(tmp_path / "trust").authority.server_credentials
    (tmp_path / "none.pem").write_text("none")

    async def fails(config: HttpConfig, own: Callable[[], Credentials] | None) -> str:
        with pytest.raises(ConfigError) as caught:
            async with serving_http(config, LIMITS, House().api(), own):
                pass
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = HttpConfig(listen=f"127.0.0.1:{other.getsockname()[1]}")
        assert "; set another" in asyncio.run(fails(taken, None))
    bad = HttpConfig(listen="127.0.0.1:0", certificate=tmp_path / "none.pem", key=tmp_path / "none.pem")
    assert asyncio.run(fails(bad, own)).startswith("http.certificate and http.key can't be used: ")


def test_a_certificate_of_a_pki_of_ones_own_is_shown(tmp_path: Path) -> None:
    fleet, other = Fleet(tmp_path / "trust"), Fleet(tmp_path / "other")
    shown = other.authority.server_credentials(["127.0.0.1"])
    (tmp_path / "key.pem").write_bytes(shown.key)
    (tmp_path / "cert.pem").write_bytes(shown.certificate)
    (tmp_path / "ca.pem").write_bytes(other.roots)

    def ask(address: str) -> tuple[str | None, int]:
        trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with closing(HTTPSConnection(address, timeout=30, context=trusted)) as connection:
            connection.request("GET", "/model")
            assert isinstance(connection.sock, ssl.SSLSocket)
            return connection.sock.version(), connection.getresponse().status

    async def whole() -> None:
        config = HttpConfig(listen="127.0.0.1:0", certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
        own = fleet.authority.server_credentials
        async with serving_http(config, LIMITS, House().api(), own) as address:
            assert await asyncio.to_thread(ask, address) == ("TLSv1.3", 200)

    asyncio.run(whole())


def test_a_certificate_that_can_not_be_kept_for_a_moment_is_shown_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = Fleet(tmp_path / "trust").authority.server_credentials
    asked, others = asyncio.Queue[None](), asyncio.Queue[None]()

    async def renewed() -> None:
        asked.put_nowait(None)
        await others.get()

    async def whole() -> None:
        config = HttpConfig(listen="127.0.0.1:0")
        async with (
            asyncio.timeout(30),
            serving_http(config, LIMITS, House().api(), own, renewed),
        ):
            for folder in (tmp_path / "none", tmp_path):
                await asked.get()
                monkeypatch.setattr(tempfile, "tempdir", str(folder))
                others.put_nowait(None)
            await asked.get()

    with caplog.at_level(logging.INFO, "leader.http.server"):
        asyncio.run(whole())
    old, new = caplog.messages
    assert old.startswith("HTTPS shows the old certificate: ")
    assert "No such file or directory" in old
    assert new == "HTTPS shows another certificate"
