"""Who may see the pages: requests for this host, with the token where it is reached from other machines."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def guarded(routes: Sequence[BaseRoute], listener: socket.socket, token: str) -> ASGIApp:
    """These routes and /healthz, for those who may see them: without a `token`, everybody on this machine."""
    health = Route("/healthz", lambda request: PlainTextResponse("ok\n"))
    host, port = listener.getsockname()[:2]
    return _Guard(Starlette(routes=[health, *routes]), str(host), int(port), token)


class _Guard:
    """Answers those who may not; adds the headers that keep browsers from doing more than showing."""

    def __init__(self, app: ASGIApp, host: str, port: int, token: str) -> None:
        self._app = app
        self._host = host
        self._cookie = f"flockstep-{port}"  # a browser sends cookies to all ports of a host
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        assert scope["type"] == "http", "there is no websocket"
        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """What to answer instead of what was asked for."""
        if not self._token:
            # A name that an attacker's DNS turns to this machine is not one of its own (DNS rebinding).
            name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
            known = name in ("localhost", self._host) or _is_loopback(name)
            return None if known else PlainTextResponse("this page is not of that host\n", 421)
        if request.url.path == "/healthz" or self._proves(request):
            return None
        if self._is_token(request.query_params.get("token", "")):
            answer = RedirectResponse(request.url.path, 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        return PlainTextResponse("open the whole URL that the leader printed: it holds a token\n", 401)

    def _proves(self, request: Request) -> bool:
        """Whether the caller has the token: a browser as its cookie, a program as `Authorization: Bearer`."""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        return self._is_token(request.cookies.get(self._cookie, "")) or (
            kind.lower() == "bearer" and self._is_token(given)
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:  # a name
        return False
