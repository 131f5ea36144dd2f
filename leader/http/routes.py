"""Which request is which call: five of LeaderService, as a learner in a shell can make them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from grpc import aio
from starlette.types import Receive, Scope, Send

from leader.http import forms
from leader.http.calls import ONE_JSON, Calls, Request
from protos import leader_pb2
from utils.errors import LimitError, PayloadError
from utils.wire import contract
from utils.wire.checksum import crc32
from utils.wire.contract import UNKNOWN, Method
from utils.wire.rpc import MAX_SAID_BYTES, SERVICE

_log = logging.getLogger(__name__)
_JSON = "application/json"
_OF_UPDATES = frozenset({"work_id", "examples", "crc32", "loss", "seconds", "start_loss"})


async def _register(request: Request, query: str) -> AsyncIterator[bytes]:
    info = forms.of_json(await _whole(request, MAX_SAID_BYTES), leader_pb2.LearnerInfo())
    if info.control != leader_pb2.CONTROL_PLAIN:
        raise PayloadError("a learner without gRPC has no session and serves nothing: leave control out")
    yield info.SerializeToString()


async def _update(request: Request, query: str) -> AsyncIterator[Any]:
    """What the update is, and its file as it comes: nothing of it is kept here."""
    header = forms.of_query(query, request.headers, leader_pb2.UpdateHeader(), _OF_UPDATES)
    if not header.work_id:
        raise PayloadError("work_id is missing: it is in the order that the update answers")
    if request.headers.get("content-type", "").startswith(_JSON):
        body = await _whole(request, forms.MOST_JSON_BYTES)
        file = await asyncio.get_running_loop().run_in_executor(ONE_JSON, forms.from_json, body)
        header.total_bytes, header.crc32 = len(file), crc32(file)
        yield leader_pb2.GradientData(header=header)
        yield memoryview(file)
        return
    size = request.headers.get("content-length", "")
    if not (size.isdecimal() and len(size) < 16):
        raise PayloadError("content-length is missing: send the update as a file, not as a stream")
    header.total_bytes = int(size)
    yield leader_pb2.GradientData(header=header)
    async for piece in request.body():
        yield memoryview(piece)


async def _whole(request: Request, most: int) -> bytes:
    """The whole body; raises LimitError for more than `most` bytes."""
    body = bytearray()
    async for piece in request.body():
        body += piece
        if len(body) > most:
            raise LimitError(f"the body has more than {most} bytes; no more are read as JSON")
    return bytes(body)


def _asking(kind: Callable[[], Message], *allowed: str) -> Callable[[Request, str], AsyncIterator[bytes]]:
    """Requests that say it all in their query."""

    async def say(request: Request, query: str) -> AsyncIterator[bytes]:
        yield forms.of_query(query, request.headers, kind(), frozenset(allowed)).SerializeToString()

    return say


@dataclass(frozen=True)
class _Route:
    method: Method[Any, Any]
    say: Callable[[Request, str], AsyncIterator[Any]]  # of a request and its query, what it says as a call


_NONE = _Route(Method(SERVICE, UNKNOWN, contract.GET_WORK.asked, contract.GET_WORK.told), _register)
_ROUTES = {
    ("POST", "/register"): _Route(contract.REGISTER, _register),
    ("GET", "/work"): _Route(contract.GET_WORK, _asking(leader_pb2.WorkRequest, "wait_s")),
    ("GET", "/model"): _Route(contract.GET_MODEL, _asking(leader_pb2.Empty, "version")),
    ("GET", "/data"): _Route(contract.GET_DATA, _asking(leader_pb2.LearnerDataRequest, "shard")),
    ("POST", "/aggregate"): _Route(contract.ACCUMULATE, _update),
}


class Api:
    """The ASGI application that answers requests by `calls`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See https://asgi.readthedocs.io/en/latest/specs/www.html."""
        assert scope["type"] == "http", "there is no websocket"
        request, reads_body = Request(scope, receive, send), scope["method"] == "POST"
        waits = [asyncio.ensure_future(self._answer(request, scope))]
        if not reads_body:
            waits.append(asyncio.ensure_future(request.left()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.wait(waits)

    async def _answer(self, request: Request, scope: Scope) -> None:
        route = _ROUTES.get((scope["method"], scope["path"]), _NONE)
        if route.method is contract.GET_MODEL and request.headers.get("accept", "").startswith(_JSON):
            request.convert, request.most = forms.to_json, forms.MOST_FILE_BYTES
        try:
            said = route.say(request, scope["query_string"].decode("latin-1"))
            await self._calls.make(route.method, said, request)
        except aio.AbortError:  # it was refused
            pass
        except asyncio.CancelledError:
            if not request.gone:
                raise
        except Exception:
            _log.exception("a request for %s failed", route.method.name)
            await request.refuse(500, "", "the server failed; its log says why")
