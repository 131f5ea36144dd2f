"""The methods of both services, each described once: of this the stub, the servers and the dialling leader are made."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from traceback import clear_frames
from typing import Any, Generic, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from protos import leader_pb2, learner_pb2
from utils.errors import WireError
from utils.wire.rpc import (
    MAX_MESSAGE_BYTES,
    MAX_SAID_BYTES,
    SERVICE,
    checked,
    parse_chunk,
    parse_down,
    parse_upload,
    raw,
)

LEARNER_SERVICE = "learner.LearnerService"
_BIG = MAX_MESSAGE_BYTES  # what holds a model, or grows with the model or the learners
T = TypeVar("T")
M = TypeVar("M", bound=Message)
Asked = TypeVar("Asked")
Told = TypeVar("Told")
Stream = AsyncIterator[Any] | Iterator[bytes]
Context = aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
#: Ends the call to the method of this name with the status of an error.
Refuse = Callable[[str, Context, WireError], Awaitable[None]]


@dataclass(frozen=True)
class Side(Generic[T]):
    """What one side of a method sends: how its messages become bytes, and what the other reads of those."""

    write: Callable[[Any], bytes]
    read: Callable[[bytes], T]  # raises PayloadError, LimitError
    number: str  # as gRPC calls it: "unary" or "stream"


def one(kind: type[M], most: int = MAX_SAID_BYTES) -> Side[M]:
    """A single message of at most so many bytes; more where it grows with the run."""
    return Side(kind.SerializeToString, checked(kind.FromString, most), "unary")


def many(kind: type[M], most: int = MAX_SAID_BYTES) -> Side[M]:
    """A stream of messages of at most so many bytes each."""
    return Side(kind.SerializeToString, checked(kind.FromString, most), "stream")


def framed(parse: Callable[[bytes], T]) -> Side[T]:
    """A stream of messages that are framed by hand, for what holds a chunk and nothing else most of the time."""
    return Side(raw, parse, "stream")


@dataclass(frozen=True)
class Method(Generic[Asked, Told]):
    """One RPC."""

    service: str
    name: str
    asked: Side[Asked]
    told: Side[Told]

    @property
    def _kind(self) -> str:
        return f"{self.asked.number}_{self.told.number}"

    def open(self, channel: aio.Channel, *request: Asked | Stream, **options: Any) -> Any:
        """The call as gRPC has it; its answers are bytes."""
        method = getattr(channel, self._kind)
        path = f"/{self.service}/{self.name}"
        return method(path, request_serializer=self.asked.write, response_deserializer=raw)(
            *request, **options
        )

    async def ask(self, channel: aio.Channel, request: Asked | Stream, timeout: float | None = None) -> Told:
        """The one answer to a request, or to a stream of them."""
        return self.told.read(await self.open(channel, request, timeout=timeout))

    async def listen(self, channel: aio.Channel, request: Asked | Stream) -> AsyncIterator[Told]:
        """The answers to a request, or to a stream of them, as they come."""
        async for message in self.open(channel, request):
            yield self.told.read(message)

    def handler(self, call: Call, refuse: Refuse) -> Handler:
        """How a server answers this method with `call`, which raises WireError to refuse.

        A stream is answered by `context.write`. One request is read in here: what gRPC can't read itself it
        answers with UNKNOWN, and logs a traceback each time.
        """
        streams = self.asked.number == "stream"

        async def answer(request: Any, context: Context) -> Any:
            messages = aiter(request) if streams else None
            try:
                return await call(messages or self.asked.read(request), context)
            except WireError as error:
                clear_frames(error.__traceback__)
                await refuse(self.name, context, error)
            finally:
                # Neither an error's frames nor gRPC's stream may keep what came in memory until the garbage
                # collector finds it: of messages that are refused there may be hundreds before that.
                if messages is not None:
                    with suppress(RuntimeError):  # a task that is cancelled, and reads yet
                        await messages.aclose()

        make = getattr(grpc, f"{self._kind}_rpc_method_handler")
        handler: Handler = make(answer, self.asked.read if streams else raw, self.told.write)
        return handler


def serve(calls: Mapping[Method[Any, Any], Call], refuse: Refuse) -> grpc.GenericRpcHandler:
    """The methods of one service as a handler to add to a server."""
    (service,) = {method.service for method in calls}
    handlers = {method.name: method.handler(call, refuse) for method, call in calls.items()}
    return grpc.method_handlers_generic_handler(service, handlers)


UNKNOWN = ""  # in place of the name of a method that there is not


async def _is_none(request: Any, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


_NO_HANDLER: Handler = grpc.stream_stream_rpc_method_handler(_is_none)


class Door(aio.ServerInterceptor):
    """Has every call of a server answered by `guarded`, which gets its method's full name and what would answer it."""

    def __init__(self, guarded: Callable[[str, Call, Any, Context], Awaitable[Any]]) -> None:
        self._guarded = guarded
        self._behind: dict[str, tuple[Handler, Handler]] = {}  # by method: what it was made for, and it

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler behind the door, where calls of no method there is knock too."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method if handler else UNKNOWN
        handler = handler or _NO_HANDLER
        made = self._behind.get(method)
        if made is None or made[0] is not handler:
            made = self._behind[method] = handler, _behind(partial(self._guarded, method), handler)
        return made[1]


def _behind(guarded: Callable[[Call, Any, Context], Awaitable[Any]], handler: Handler) -> Handler:
    """A handler like `handler`, whose calls go to `guarded` first, with what answers them.

    It is asked as soon as a call begins: gRPC calls a handler of one request only once that is there, and whoever
    never sends it would hold a place among the calls at once without being asked for anything. So the one request
    is read in here, as the first of a stream.
    """
    told = "stream" if handler.response_streaming else "unary"
    inner = getattr(handler, f"{'stream' if handler.request_streaming else 'unary'}_{told}")
    read = None if handler.request_streaming else handler.request_deserializer

    async def answer(requests: Any, context: Context) -> Any:
        message = requests
        if read is not None:
            stream = aiter(requests)
            message = checked(read, _BIG)(await anext(stream, b""))
            await stream.aclose()
        if not inspect.isasyncgenfunction(inner):
            return await inner(message, context)
        async for part in inner(message, context):
            await context.write(part)
        return None

    make = getattr(grpc, f"stream_{told}_rpc_method_handler")
    keep = handler.request_deserializer if read is None else raw
    made: Handler = make(partial(guarded, answer), keep, handler.response_serializer)
    return made


REGISTER = Method(
    SERVICE, "RegisterLearner", one(leader_pb2.LearnerInfo), one(leader_pb2.AckWithMetadata, _BIG)
)
GET_WORK = Method(SERVICE, "GetWork", one(leader_pb2.WorkRequest), one(leader_pb2.WorkOrders, _BIG))
GET_UPLOAD = Method(SERVICE, "GetUpload", one(leader_pb2.UploadRequest), one(leader_pb2.UploadStatus))
GET_MODEL = Method(SERVICE, "GetModel", one(leader_pb2.Empty), framed(parse_chunk))
GET_DATA = Method(SERVICE, "GetData", one(leader_pb2.LearnerDataRequest), framed(parse_chunk))
ACCUMULATE = Method(SERVICE, "AccumulateGradients", framed(parse_upload), one(leader_pb2.Ack))
EXCHANGE = Method(SERVICE, "ExchangeGradients", framed(parse_upload), framed(parse_down))
# A roster of secure aggregation grows with the learners.
SESSION = Method(SERVICE, "Session", many(leader_pb2.LearnerMessage), many(leader_pb2.LeaderMessage, _BIG))

START_TRAINING = Method(LEARNER_SERVICE, "StartTraining", one(learner_pb2.Empty), one(learner_pb2.Ack))
SYNC_MODEL_STATE = Method(
    LEARNER_SERVICE, "SyncModelState", one(learner_pb2.ModelState, _BIG), one(learner_pb2.Ack)
)
STOP_TRAINING = Method(LEARNER_SERVICE, "StopTraining", one(learner_pb2.StopNotice), one(learner_pb2.Ack))


class LeaderStub:
    """The leader's methods as a learner calls them."""

    def __init__(self, channel: aio.Channel) -> None:
        self.register = partial(REGISTER.ask, channel)
        self.get_work = partial(GET_WORK.ask, channel)
        self.get_upload = partial(GET_UPLOAD.ask, channel)
        self.get_model = partial(GET_MODEL.listen, channel)
        self.get_data = partial(GET_DATA.listen, channel)
        self.accumulate = partial(ACCUMULATE.ask, channel)
        self.exchange = partial(EXCHANGE.open, channel)
        self.session = partial(SESSION.listen, channel)
