"""The web server of a run: a thread with an event loop of its own, which is told of events by a queue."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from secrets import token_urlsafe
from threading import Thread
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

from leader.events import Event, EventStream
from utils.errors import ConfigError
from utils.files import replace_file
from utils.wire.rpc import is_loopback, own_host

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from uvicorn import Server

_log = logging.getLogger(__name__)
_PORTS = 100  # that are tried, from web.listen's on
_TICK_S = 0.5  # between two looks at what happened
_STOP_S = 0.5  # that the end of a run waits at most for viewers to be told


class View(Protocol):
    """Something that the server shows; all its methods are called in the server's own thread."""

    def on_event(self, event: Event, at: float) -> None:
        """Take in what happened at time.monotonic() = `at`."""

    def tick(self, *, last: bool) -> None:
        """Show what has been taken in; nothing comes after the `last` time."""

    def routes(self) -> Sequence[BaseRoute]:
        """What it answers."""


class WebServer:
    """Serves views at `url` until it is stopped; subscribe `on_event` to a run's events."""

    def __init__(self, listener: socket.socket, token: str, views: Callable[[], Sequence[View]]) -> None:
        self._listener = listener
        self._host, self._port = listener.getsockname()[:2]  # a page that ends early closes it
        self._token = token
        self._views = views
        self._events: deque[tuple[float, Event]] = deque()
        self._stopping = False
        self._leave: Callable[[], object] | None = None  # called once that is so
        self._thread = Thread(target=self._run, name="web", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it, or on another one if it listens for those; with the token."""
        host = own_host() if ip_address(self._host).is_unspecified else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self._port}/" + (f"?token={self._token}" if self._token else "")

    def on_event(self, event: Event) -> None:
        """Take note of `event`; all else happens in the server's thread."""
        self._events.append((time.monotonic(), event))

    def stop(self) -> None:
        """Tell viewers what came last and let them go; takes half a second at most."""
        self._stopping = True
        if self._leave is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._leave()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            _log.exception("the live page has ended; the run goes on")
        self._events = deque(maxlen=0)
        self._listener.close()

    async def _serve(self) -> None:
        # Imported here, so that a leader's start doesn't wait for these libraries.
        import uvicorn

        from leader.web.guard import guarded

        views = self._views()
        app = guarded([route for view in views for route in view.routes()], self._listener, self._token)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                backlog=128,
            )
        )
        leaving = asyncio.Event()
        telling = asyncio.create_task(self._tell(server, views, leaving))
        self._leave = partial(asyncio.get_running_loop().call_soon_threadsafe, leaving.set)
        if self._stopping:  # looked at last: whoever stops from now on calls that
            leaving.set()
        await server.serve(sockets=[self._listener])
        await telling

    async def _tell(self, server: Server, views: Sequence[View], leaving: asyncio.Event) -> None:
        """Let the views take in what happened, twice a second and once more at the end."""
        last = False
        try:
            while not last:
                last = leaving.is_set()
                while self._events:
                    at, event = self._events.popleft()
                    for view in views:
                        view.on_event(event, at)
                for view in views:
                    view.tick(last=last)
                with suppress(TimeoutError):
                    await asyncio.wait_for(leaving.wait(), _TICK_S)
        finally:
            server.should_exit = True  # a view that fails ends the page: it must not stand still unnoticed


def listen_on(address: str, before: int | None = None) -> socket.socket:
    """A listener at HOST:PORT, or at the next free port; at the port `before` if that is one of those.

    Raises ConfigError.
    """
    host, _, text = address.rpartition(":")
    first = int(text)
    ports = range(first, min(first + _PORTS, 65536)) if first else [0]
    tried = ([before] if before and (first == 0 or before in ports) else []) + list(ports)
    try:
        family, *_, (ip, *_) = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
        for port in tried:
            if listener := _bound(family, str(ip), port):
                return listener
    except OSError as error:
        raise ConfigError(
            f"web.listen is {address}: {error.strerror}; set an address of this machine, or --no-web"
        ) from error
    raise ConfigError(f"web.listen is {address}: this and the next {_PORTS - 1} ports are taken; set another")


def _bound(family: int, ip: str, port: int) -> socket.socket | None:
    """A listener there; None if the port is taken. Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return listener


@contextmanager
def web_server(
    address: str, page: Path, events: EventStream, views: Callable[[], Sequence[View]]
) -> Iterator[str]:
    """Serve `views` of a run while it goes on, at web.listen = `address`; yields the URL, "" if there is none.

    The URL is in the file `page` too, and a resumed run has the same one if it can.
    Raises ConfigError.
    """
    if not address:
        yield ""
        return
    before = urlsplit(page.read_text(encoding="utf-8").strip()) if page.is_file() else urlsplit("")
    token = "" if is_loopback(address) else parse_qs(before.query).get("token", [token_urlsafe(24)])[0]
    server = WebServer(listen_on(address, before.port), token, views)
    events.subscribe(server.on_event)
    try:
        with suppress(OSError):  # the URL is printed too
            replace_file(page, f"{server.url}\n".encode(), mode=0o600 if token else 0o666)
        yield server.url
    finally:
        server.stop()
