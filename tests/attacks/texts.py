"""Nasty texts for every string field of the contract: found by descriptor, so that a new field is attacked too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import aio

from protos import leader_pb2, leader_pb2_grpc
from tests.clusters import TIMEOUT_S
from tests.nasty_strings import NASTY
from tests.strangers import Stranger

Path = tuple[FieldDescriptor, ...]  # from a message to one of its strings, through those within
M = TypeVar("M", bound=Message)
#: Some strings in one text each: not a call for each of them.
BATCHES = ["".join(NASTY[at : at + 8]) for at in range(0, len(NASTY), 8)]


def paths(kind: Any) -> Iterator[Path]:
    """The strings of a kind of message, by its descriptor, and of those in it."""
    for field in kind.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (field,)
        elif field.message_type is not None:
            yield from ((field, *rest) for rest in paths(field.message_type))


def fields(*kinds: Any) -> set[str]:
    """The full names of the strings in messages of these kinds."""
    return {path[-1].full_name for kind in kinds for path in paths(kind)}


def with_text(message: M, path: Path, text: str) -> M:
    """A copy of `message` where `path` leads to `text`."""
    copy = type(message)()
    copy.CopyFrom(message)
    inner: Any = copy
    for field in path[:-1]:
        inner = getattr(inner, field.name)
        if field.is_repeated:
            inner = inner.add()
    last = path[-1]
    if last.is_repeated:
        getattr(inner, last.name).append(text)
    else:
        setattr(inner, last.name, text)
    return copy


def messages(honest: M, texts: list[str] = BATCHES) -> Iterator[M]:
    """Messages like `honest`, with each text in each of its strings."""
    for path in paths(honest.DESCRIPTOR):
        yield from (with_text(honest, path, text) for text in texts)


async def refusal(call: Any) -> str:
    """The details of the status that a call ends with, "" where it is answered."""
    try:
        await call
    except aio.AioRpcError as error:
        return str(error.details())
    return ""


async def talk(address: str, said: Mapping[str, Any]) -> list[str]:
    """Say nasty texts in every call of a learner; what the leader refused with.

    `said` is what learners say of themselves when they register.
    """
    async with Stranger(address) as stranger:
        full = leader_pb2.LearnerInfo(control=leader_pb2.CONTROL_SESSION, **said)
        plain = leader_pb2.LearnerInfo()  # its address is its name
        infos = [*messages(full), *messages(plain)]
        told = [await refusal(stranger.stub.RegisterLearner(info, timeout=TIMEOUT_S)) for info in infos]
        token = (await stranger.register("talker", **said)).token
        told += await _calls(stranger.stub, token)
    for message in messages(leader_pb2.LearnerMessage()):
        async with Stranger(address) as stranger:
            await stranger.register(**said)
            await stranger.open_session()
            kind = str(message.WhichOneof("kind"))
            stranger.say(**{kind: getattr(message, kind)})
            stranger.say(goodbye=leader_pb2.Goodbye())
            await stranger.ended()
    return told


async def _calls(stub: leader_pb2_grpc.LeaderServiceStub, token: bytes) -> list[str]:
    """The calls of a learner beside its session."""
    shards = messages(leader_pb2.LearnerDataRequest())
    uploads = messages(leader_pb2.UploadRequest(token=token, total_bytes=9))
    header = leader_pb2.UpdateHeader(token=token, examples=1, total_bytes=9)
    updates = messages(leader_pb2.GradientData(header=header))
    return [
        *[await refusal(_drain(stub.GetData(request, timeout=TIMEOUT_S))) for request in shards],
        *[await refusal(stub.GetUpload(request, timeout=TIMEOUT_S)) for request in uploads],
        *[await refusal(stub.AccumulateGradients(iter([one]), timeout=TIMEOUT_S)) for one in updates],
    ]


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass
