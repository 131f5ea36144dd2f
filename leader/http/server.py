"""The listener of plain HTTP, on the event loop of the run: what comes is read when the run asks for it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from leader.condition import never
from leader.config import HttpConfig, LimitsConfig
from utils.errors import ConfigError
from utils.trust.credentials import Credentials
from utils.wire.rpc import is_loopback

_log = logging.getLogger(__name__)
_GRACE_S = 2.0
#: Of uvicorn, which has words for whatever a caller does.
_QUIET = logging.getLogger(f"{__name__}.connections")
_QUIET.setLevel(logging.CRITICAL + 1)


class _Connection(H11Protocol):
    """One connection; what its caller does wrong is told to that one alone."""

    def __init__(self, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.logger = _QUIET


def _settings(app: ASGIApp, limits: LimitsConfig) -> Config:
    settings = Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=limits.metadata_bytes,
    )
    settings.load()
    return settings


@asynccontextmanager
async def serving_http(
    config: HttpConfig,
    limits: LimitsConfig,
    app: ASGIApp,
    own: Callable[[], Credentials] | None,
    renewed: Callable[[], Awaitable[None]] = never,
    key: str = "http.listen",
) -> AsyncIterator[str]:
    """Answer requests at config.listen by `app`; gives HOST:PORT. Those under way get a moment to end.

    Args:
        own: what the server shows from now on, where the run is secure.
        renewed: returns when that is another; connections that are there stay.
        key: says where config.listen is set.

    Raises ConfigError if the port is taken, the address is not this machine's, or its certificate can't be used.
    """
    host = config.listen.rpartition(":")[0]
    settings, state = _settings(OwnPages(app, "" if own else host), limits), ServerState()
    tls = _tls() if own else None
    if tls and own:
        _show(tls, config, own())
    server = await _listen(config.listen, lambda: _Connection(settings, state), tls, limits.handshake_s, key)
    renewing = asyncio.ensure_future(_renew(tls, config, own, renewed)) if tls and own else None
    grace_s = _GRACE_S
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    except asyncio.CancelledError:
        grace_s = 0.0
        raise
    finally:
        if renewing:
            renewing.cancel()
        await _close(server)
        await _end(state, grace_s)


async def _listen(
    place: str,
    connection: Callable[[], _Connection],
    tls: ssl.SSLContext | None,
    handshake_s: float,
    key: str,
) -> asyncio.Server:
    """Raises ConfigError where it can't be."""
    host, _, port = place.rpartition(":")
    try:
        return await asyncio.get_running_loop().create_server(
            connection,
            host.strip("[]"),
            int(port),
            ssl=tls,
            ssl_handshake_timeout=handshake_s if tls else None,
        )
    except OSError as error:
        raise ConfigError(f"{key} is {place}: {error.strerror}; set another") from error


async def _close(server: asyncio.Server) -> None:
    # A connection that asyncio has accepted and not begun with when its server closes is never heard of again.
    asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
    await asyncio.sleep(0)
    server.close()


async def _end(state: ServerState, grace_s: float) -> None:
    """End all connections; requests under way have so many seconds."""
    for connection in list(state.connections):
        connection.shutdown()
    if tasks := set(state.tasks):
        await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for connection in list(state.connections):
        connection.transport.abort()


def _tls() -> ssl.SSLContext:
    """TLS 1.3 without client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _show(context: ssl.SSLContext, config: HttpConfig, own: Credentials) -> None:
    """Show the configured files or `own` to whoever connects from now on; raises ConfigError."""
    try:
        with TemporaryDirectory() as folder:  # for this user alone; OpenSSL takes keys from files only
            path = Path(folder, "own.pem")
            path.write_bytes(own.key + own.certificate)
            context.load_cert_chain(config.certificate or path, config.key or path, password="")
    except OSError as error:  # of which ssl.SSLError is one
        raise ConfigError(f"http.certificate and http.key can't be used: {error}") from error


async def _renew(
    context: ssl.SSLContext,
    config: HttpConfig,
    own: Callable[[], Credentials],
    renewed: Callable[[], Awaitable[None]],
) -> None:
    """Show what took the place of what was shown, for ever."""
    while True:
        await renewed()
        try:
            _show(context, config, own())
            _log.info("HTTPS shows another certificate")
        except ConfigError as error:
            _log.warning("HTTPS shows the old certificate: %s", error)


class OwnPages:
    """Keeps pages out that a browser shows from elsewhere: without being asked it says whose a request is."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """`host` is where a run without trust listens; "" = callers prove who they are."""
        self._app = app
        self._own_names_only = is_loopback(f"{host}:0")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See https://asgi.readthedocs.io/en/latest/specs/www.html."""
        headers = Headers(scope=scope)
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        # A name that an attacker's DNS turns to this machine is not one of its own (DNS rebinding).
        stranger = self._own_names_only and not is_loopback(f"{name}:0")
        if stranger or "origin" in headers:
            said = {"error": "ForbiddenError", "message": "pages of other sites may not call"}
            await JSONResponse(said, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
