"""One request as a call: what a guard and a service ask of a gRPC call, answered by HTTP."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc import aio
from starlette.types import Receive, Scope, Send

from utils.errors import LimitError
from utils.wire.contract import Context, Door, Method
from utils.wire.rpc import parse_chunk
from utils.wire.status import ERROR_KEY, REFUSED, RETRY_KEY

#: From the error tree to HTTP statuses; every WireError class has its own line here.
STATUS = {
    "PayloadError": 400,
    "IncompatibleError": 400,
    "UnknownLearnerError": 401,
    "EndedError": 401,
    "ForbiddenError": 403,
    "StalledError": 408,
    "NameTakenError": 409,
    "DuplicateUpdateError": 409,
    "LateUpdateError": 410,
    "LimitError": 413,
    "ValueRangeError": 422,
    "ChecksumError": 422,
    "BusyError": 429,
    "NotReadyError": 503,
}
#: Makes JSON of tensors and the other way round, one at a time: as objects they take many times their bytes.
ONE_JSON = ThreadPoolExecutor(1, "json")
_NOT_READY_MS = "1000"  # after which to try again
_JSON = (b"content-type", b"application/json")
_SHOWN = {"authorization", "flockstep-ticket"}  # by what callers prove who they are, or what they may do
_FILE = (b"content-type", b"application/octet-stream")


class Request:
    """One request; to guard and services it is the context of a call, of which they use no more than this.

    A file that it is answered with is sent as it comes; with `convert` it is collected, up to `most` bytes, and
    what that makes of it is sent.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.convert: Callable[[bytes], bytes] | None = None
        self.most = 0
        self.gone = False  # its caller broke it off
        self._scope = scope
        self._receive = receive
        self._send = send
        self._collected = bytearray()
        self._begun = False

    # --- as a gRPC call has it ---------------------------------------------------------------

    def peer(self) -> str:
        """The other end of the connection, as gRPC writes it."""
        host, port = self._scope["client"]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def auth_context(self) -> dict[str, list[bytes]]:
        """What the connection has proven: that it is encrypted. The listener takes TLS 1.3 alone."""
        return {"ssl_tls_version": [b"TLSv1.3"]} if self._scope["scheme"] == "https" else {}

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """The bearer's JWT alone: no other header of a request says who calls."""
        return [
            ("authorization", v.decode("latin-1")) for k, v in self._scope["headers"] if k == b"authorization"
        ]

    async def send_initial_metadata(self, metadata: object) -> None:
        """Begin to send a file."""
        if self.convert is None:
            await self._begin(200, _FILE)

    async def write(self, message: bytes) -> None:
        """Send the chunk of a framed message."""
        chunk = parse_chunk(message)
        if self.convert is None:
            await self._body(bytes(chunk), more=True)
        elif len(self._collected) + len(chunk) > self.most:
            raise LimitError(f"more than {self.most} bytes are too many for JSON; ask for safetensors")
        else:
            self._collected += chunk

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """Refuse the request, or break off what is being sent; raises aio.AbortError."""
        told = dict(trailing)
        error = told.get(ERROR_KEY, "")
        status = 404 if code is grpc.StatusCode.UNIMPLEMENTED else STATUS.get(error, 500)
        if status == 403 and self.auth_context() and not _SHOWN & self.headers.keys():
            status = 401
        await self.refuse(status, error, details.removeprefix(REFUSED), told.get(RETRY_KEY))
        raise aio.AbortError(details)

    # --- as HTTP has it ----------------------------------------------------------------------

    async def body(self) -> AsyncIterator[bytes]:
        """What comes as the request's body, piece by piece; who goes amid it breaks the call off, as in gRPC."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            more = message.get("more_body", False)
            if piece := message.get("body"):
                yield piece

    async def left(self) -> None:
        """Returns when the caller has gone; for requests whose body nobody reads."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def answer(self, message: Message | None) -> None:
        """End the answer: with a message as JSON; with None, behind the file that was sent."""
        if message is not None:
            told = MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            await self._say(200, _text(told))
        elif self.convert is None:
            await self._body(b"")
        else:
            loop, file = asyncio.get_running_loop(), bytes(self._collected)
            await self._say(200, await loop.run_in_executor(ONE_JSON, self.convert, file))

    async def refuse(self, status: int, error: str, why: str, after_ms: str | None = None) -> None:
        """Answer with an error, unless a file is being sent: it ends too early then."""
        if self._begun:
            return
        headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
        if after_ms := after_ms or (_NOT_READY_MS if status == 503 else None):
            headers.append((b"retry-after", b"%d" % math.ceil(int(after_ms) / 1000)))
        await self._say(status, _text({"error": error, "message": why}), *headers)

    async def _say(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        await self._begin(status, _JSON, (b"content-length", b"%d" % len(body)), *headers)
        await self._body(body)

    async def _begin(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        self._begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, body: bytes, *, more: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _text(told: object) -> bytes:
    return json.dumps(told, indent=1).encode() + b"\n"  # a field a line, so that a shell finds it


class Calls:
    """What requests become: calls of a service, as gRPC would bring them to its door."""

    def __init__(self, handler: grpc.GenericRpcHandler, door: Door) -> None:
        self._handler = handler
        self._door = door

    async def make(self, method: Method[Any, Any], messages: AsyncIterator[Any], request: Request) -> None:
        """Have `request` answered as a call of `method` that says `messages`; raises aio.AbortError if refused."""
        named: Any = SimpleNamespace(method=f"/{method.service}/{method.name}", invocation_metadata=())

        async def found(details: grpc.HandlerCallDetails) -> Any:
            return self._handler.service(details)

        guarded: Any = await self._door.intercept_service(found, named)
        call = guarded.stream_stream or guarded.stream_unary
        await request.answer(await call(messages, cast(Context, request)))
