"""The web server of a run: where it listens, whom it answers, and that no run waits for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from leader.events import Event, EventStream, WaitingForLearners
from leader.web import server as module
from leader.web.server import WebServer, listen_on, web_server
from tests.tools.ports import closed_address
from utils.errors import ConfigError

Serve = Callable[..., str]
TIMEOUT_S = 60.0  # of what takes a moment on a machine that has time


class Said:
    """A view that says what it was told."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.last = False

    def on_event(self, event: Event, at: float) -> None:
        assert 0 <= time.monotonic() - at < TIMEOUT_S
        self.told.append(event)

    def tick(self, *, last: bool) -> None:
        self.last = last

    def routes(self) -> list[BaseRoute]:
        return [Route("/told", self._say)]

    async def _say(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(self.told)))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for the server's end, however busy the machine is."""
    monkeypatch.setattr(module, "_STOP_S", TIMEOUT_S)


def get(url: str) -> httpx.Response:
    """The answer of a server that may be loading its libraries."""
    return httpx.get(url, timeout=TIMEOUT_S)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves a view until the end of the test; the URL."""
    with ExitStack() as stack:

        def start(view: Said, listen: str = "127.0.0.1:0", events: EventStream | None = None) -> str:
            server = web_server(listen, tmp_path / "page", events or EventStream(), lambda: [view])
            return stack.enter_context(server)

        yield start


def test_every_event_is_told_and_the_last_ones_at_the_stop_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK_S", 3600.0)
    view, events = Said(), EventStream()
    with web_server("127.0.0.1:0", tmp_path / "page", events, lambda: [view]) as url:
        assert get(f"{url}healthz").text == "ok\n"
        assert (tmp_path / "page").read_text() == f"{url}\n"
        for have in range(100):
            events.publish(WaitingForLearners(have, 100))
    assert view.told == [WaitingForLearners(have, 100) for have in range(100)]
    assert view.last


def test_a_stop_waits_for_no_view_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.1)
    go_on = threading.Event()

    class Stuck(Said):
        def tick(self, *, last: bool) -> None:
            assert go_on.wait(2 * TIMEOUT_S)

    server = WebServer(listen_on("127.0.0.1:0"), "", lambda: [Stuck()])
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < TIMEOUT_S
    go_on.set()
    server._thread.join(TIMEOUT_S)
    assert not server._thread.is_alive()


def test_a_run_that_ends_before_its_page_is_there_says_nothing_of_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.0)
    view, begun, stopped = Said(), threading.Event(), threading.Event()

    def views() -> list[Said]:
        begun.set()
        assert stopped.wait(TIMEOUT_S)
        return [view]

    server = WebServer(listen_on("127.0.0.1:0"), "", views)
    assert begun.wait(TIMEOUT_S)
    server.stop()
    stopped.set()
    server._thread.join(TIMEOUT_S)
    assert view.last
    assert caplog.messages == []


def test_a_taken_port_is_passed_over_and_a_resumed_run_has_its_own_again(
    tmp_path: Path, serve: Serve
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with web_server(f"127.0.0.1:{port}", tmp_path / "page", EventStream(), lambda: [Said()]) as first:
            assert httpx.URL(first).port in range(port + 1, port + 100)
    assert serve(Said(), f"127.0.0.1:{port}") == first


@pytest.mark.parametrize("listen", ["192.0.2.1:8051", "no-such-host.invalid:8051"])
def test_an_address_of_another_machine_is_refused_with_what_to_do(listen: str) -> None:
    with pytest.raises(ConfigError, match=rf"web.listen is {listen}: .*; set an address of this machine, or"):
        listen_on(listen)


def test_a_page_of_another_name_is_not_shown_here(serve: Serve) -> None:
    url = serve(Said())
    assert get(f"{url}told").status_code == 200
    assert httpx.get(f"{url}told", headers={"Host": "localhost:1"}).status_code == 200
    assert httpx.get(f"{url}told", headers={"Host": "attacker.example"}).status_code == 421
    assert httpx.post(f"{url}told").status_code == 405


def test_other_machines_need_the_token(serve: Serve, tmp_path: Path) -> None:
    url = httpx.URL(serve(Said(), "0.0.0.0:0"))
    token = url.params["token"]
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o600
    with httpx.Client(base_url=f"http://127.0.0.1:{url.port}", timeout=TIMEOUT_S) as client:
        assert client.get("/healthz").status_code == 200
        for denied in ("/told", "/told?token=", "/told?token=guess", "/told?token=%C3%A9"):
            assert client.get(denied).status_code == 401
        assert client.get("/told", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        answer = client.get("/told", params={"token": token})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/told")
        cookie = answer.headers["Set-Cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/told").status_code == 200  # by the cookie


def test_a_view_that_fails_ends_the_page_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[Said]:
        raise ImportError("no such library")

    events = EventStream()
    with web_server("127.0.0.1:0", tmp_path / "page", events, broken):
        events.publish(WaitingForLearners(0, 1))
    assert "the live page has ended; the run goes on" in caplog.text


def _ask_for(seconds: float, url: str) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        get(url)


def test_a_view_that_fails_at_an_event_shows_no_run_that_stands_still(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Said):
        def on_event(self, event: Event, at: float) -> None:
            raise ValueError("a bug")

    events = EventStream()
    with web_server("127.0.0.1:0", tmp_path / "page", events, lambda: [Broken()]) as url:
        assert get(f"{url}healthz").text == "ok\n"
        events.publish(WaitingForLearners(0, 1))
        with pytest.raises(httpx.TransportError):
            _ask_for(20.0, f"{url}healthz")
    assert "the live page has ended; the run goes on" in caplog.text


def test_without_an_address_there_is_no_page(tmp_path: Path) -> None:
    with web_server("", tmp_path / "page", EventStream(), lambda: [Said()]) as url:
        assert url == ""
    assert not (tmp_path / "page").exists()


def test_free_ports_are_looked_for_from_the_given_one_on() -> None:
    host, _, port = closed_address().rpartition(":")
    with listen_on(f"{host}:{port}") as listener:
        assert listener.getsockname() == (host, int(port))
