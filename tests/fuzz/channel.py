"""gRPC's two ends without a network: a channel that answers with given bytes, a context that records."""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc import aio

#: gRPC drops a status whose headers are larger than 8 KiB; the details are most of them.
_LONGEST_DETAILS = 4096


class RefusedError(Exception):
    """A servicer ended the call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code


class Context:
    """The servicer context of one call from `peer`."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.written: list[bytes] = []

    def peer(self) -> str:
        """Who calls."""
        return self._peer

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """The answer begins."""

    async def write(self, message: bytes) -> None:
        """Take one message of the answer."""
        self.written.append(message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str]] = ()
    ) -> NoReturn:
        """End the call; the details must be fit to travel."""
        quoted = urllib.parse.quote(details)
        assert len(quoted) <= _LONGEST_DETAILS, f"{len(quoted)} bytes of details: {details[:500]}"
        raise RefusedError(code, details)


async def stream(messages: Sequence[bytes], parse: Callable[[bytes], Any] | None) -> AsyncIterator[Any]:
    """The request stream as a servicer sees it."""
    for message in messages:
        yield message if parse is None else parse(message)


class Answers:
    """A channel on which every call is answered with the messages in `answer`."""

    def __init__(self) -> None:
        self.answer: Sequence[bytes] = ()

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
    ) -> Callable[..., Awaitable[Any]]:
        """A call with one answer."""

        async def call(request: object, timeout: float | None = None) -> object:
            request_serializer(request)
            return _received(self.answer[0], response_deserializer)

        return call

    def unary_stream(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
    ) -> Callable[..., AsyncIterator[Any]]:
        """A call with a stream of answers."""

        async def call(request: object) -> AsyncIterator[object]:
            request_serializer(request)
            for message in self.answer:
                yield _received(message, response_deserializer)

        return call


def _received(message: bytes, parse: Callable[[bytes], Any]) -> object:
    """What gRPC's client makes of an answer: None where it can't be parsed (grpc._common.deserialize)."""
    try:
        return parse(message)
    except Exception:
        return None


def as_channel(answers: Answers) -> aio.Channel:
    """`answers` under the type that a stub takes."""
    return answers  # type: ignore[return-value]


@dataclass
class _Details:
    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


def find_method(service: grpc.GenericRpcHandler, path: str) -> Any:
    """The RpcMethodHandler that gRPC would call for this path."""
    handler = service.service(_Details(path))
    assert handler is not None, path
    return handler
