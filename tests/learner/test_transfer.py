from __future__ import annotations

import asyncio
import math
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import safetensors.numpy
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leader.data_stream import stream_shard
from leader.versions import VersionStore
from learner import transfer
from learner.trainer import Update
from learner.transfer import HeldUpdate, pull_model, pull_shard, push
from model.flat import Layout
from protos import leader_pb2
from utils.datasets import Dataset
from utils.errors import (
    DuplicateUpdateError,
    FlockstepError,
    IncompatibleError,
    LateUpdateError,
    LimitError,
    PayloadError,
    StalledError,
    UnreachableError,
)
from utils.framing import frame
from utils.payload import DTYPES, encode_header
from utils.rpc import SERVICE, LeaderStub, raw

T = TypeVar("T")
LAYOUT = Layout.of(nn.Sequential(nn.Linear(30, 10), nn.BatchNorm1d(10)))
VALUES = np.random.Generator(np.random.PCG64(0)).normal(size=LAYOUT.total).astype(np.float32)
TOKEN = b"t" * 16
ORDER = leader_pb2.WorkOrder(work_id="w" * 32, round=4, version=9, exchange="delta")


def held() -> HeldUpdate:
    return HeldUpdate.of(ORDER, Update(VALUES, examples=70, trained=64, loss=0.25, seconds=1.5), LAYOUT)


def parsed(messages: Iterable[bytes]) -> tuple[leader_pb2.UpdateHeader, list[bytes]]:
    first, *rest = [leader_pb2.GradientData.FromString(message) for message in messages]
    assert not any(message.HasField("header") for message in rest)
    assert first.chunk == b""
    return first.header, [message.chunk for message in rest]


# --- what is sent --------------------------------------------------------------------------


def test_an_update_is_one_safetensors_file_that_its_header_describes() -> None:
    header, chunks = parsed(held().messages(TOKEN, 256))
    data = b"".join(chunks)
    assert header == leader_pb2.UpdateHeader(
        token=TOKEN,
        work_id="w" * 32,
        examples=70,
        total_bytes=len(data),
        crc32=zlib.crc32(data),
        loss=0.25,
        seconds=1.5,
    )
    assert max(map(len, chunks)) <= 256
    arrays = safetensors.numpy.load(data)
    assert set(arrays) == {entry.name for entry in LAYOUT.entries}
    for entry in LAYOUT.entries:
        expected = VALUES[entry.start : entry.start + entry.size].reshape(entry.shape)
        np.testing.assert_array_equal(arrays[entry.name], expected)


def test_an_update_is_kept_without_the_token_and_can_be_sent_again_with_a_new_one() -> None:
    update = held()
    old, chunks = parsed(update.messages(b"old", 256))
    new, again = parsed(update.messages(b"new", 256))
    assert (old.token, new.token) == (b"old", b"new")
    assert again == chunks


@given(offset=st.integers(0, 1800), chunk_bytes=st.integers(64, 2048))
def test_an_update_goes_on_from_any_byte(offset: int, chunk_bytes: int) -> None:
    update = held()
    whole = b"".join(parsed(update.messages(TOKEN, 1 << 20))[1])
    header, chunks = parsed(update.messages(TOKEN, chunk_bytes, offset))
    assert header.offset == offset
    assert b"".join(chunks) == whole[offset:]
    assert (header.crc32, header.total_bytes) == (zlib.crc32(whole), len(whole))


# --- a leader that says what it is told to ---------------------------------------------------

Refusal = tuple[grpc.StatusCode, str]


class Leader:
    """Serves one stream of messages, takes updates, and refuses either where told to.

    The first `breaks` updates end with INTERNAL, as if the network had broken them.
    """

    def __init__(
        self,
        messages: Iterable[bytes | None] = (),
        refusal: Refusal | None = None,
        held: int = 0,
        breaks: int = 0,
    ) -> None:
        self.messages = messages
        self.refusal = refusal
        self.held = held
        self.breaks = breaks
        self.requests: list[Any] = []
        self.taken: list[bytes] = []

    async def down(self, request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        """GetModel and GetData; None among the messages waits for ever."""
        self.requests.append(request)
        for message in self.messages:
            if message is None:
                await asyncio.Event().wait()
            else:
                yield message
        if self.refusal:
            await context.abort(*self.refusal)

    async def accumulate(
        self, messages: AsyncIterator[bytes], context: aio.ServicerContext[Any, Any]
    ) -> leader_pb2.Ack:
        """AccumulateGradients."""
        stream = aiter(messages)
        first = await anext(stream)
        if self.breaks:
            self.breaks -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM")
        if self.refusal:
            await context.abort(*self.refusal)
        self.taken = [first, *[message async for message in stream]]
        return leader_pb2.Ack(success=True)

    async def get_upload(
        self, request: leader_pb2.UploadRequest, context: aio.ServicerContext[Any, Any]
    ) -> leader_pb2.UploadStatus:
        """GetUpload."""
        self.requests.append(request)
        if self.refusal:
            await context.abort(*self.refusal)
        return leader_pb2.UploadStatus(received=self.held)

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The methods by name."""
        down = grpc.unary_stream_rpc_method_handler
        return {
            "GetModel": down(self.down, leader_pb2.Empty.FromString, raw),
            "GetData": down(self.down, leader_pb2.LearnerDataRequest.FromString, raw),
            "AccumulateGradients": grpc.stream_unary_rpc_method_handler(
                self.accumulate, raw, leader_pb2.Ack.SerializeToString
            ),
            "GetUpload": grpc.unary_unary_rpc_method_handler(
                self.get_upload,
                leader_pb2.UploadRequest.FromString,
                leader_pb2.UploadStatus.SerializeToString,
            ),
        }


def talking(leader: Leader, call: Callable[[LeaderStub], Awaitable[T]]) -> T:
    """What `call` gives against `leader`, over a real connection."""

    async def scenario() -> T:
        server = aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, leader.handlers()),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with asyncio.timeout(30), aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await call(LeaderStub(channel))
        finally:
            await server.stop(None)

    return asyncio.run(scenario())


# --- the model -----------------------------------------------------------------------------


def version(layout: Layout = LAYOUT) -> list[bytes]:
    vector = np.resize(VALUES, layout.total)
    return list(VersionStore(layout, 512).encode(9, vector).messages)


def get_model(leader: Leader) -> np.ndarray[Any, np.dtype[np.float32]]:
    return talking(leader, lambda stub: pull_model(stub, TOKEN, ORDER, LAYOUT))


def test_the_model_arrives_bit_for_bit() -> None:
    leader = Leader(version())
    assert get_model(leader).tobytes() == VALUES.tobytes()
    assert leader.requests == [leader_pb2.Empty(token=TOKEN, version=9)]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(30, 10)), "has 2 tensors, this learner's 6"),
        (nn.Sequential(nn.Linear(30, 11), nn.BatchNorm1d(11)), r"\('0.weight', 'F32', \(11, 30\)\) where"),
        (nn.Sequential(nn.Linear(30, 10), nn.GroupNorm(2, 10), nn.Linear(1, 1)), "'2.weight'"),
    ],
)
def test_another_model_is_refused_by_its_manifest(module: nn.Module, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        get_model(Leader(version(Layout.of(module))))


def test_a_model_that_ends_early_is_refused() -> None:
    with pytest.raises(PayloadError, match="payload ended after"):
        get_model(Leader(version()[:-1]))


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ((grpc.StatusCode.ABORTED, "leader: version 9 is gone"), LateUpdateError, "^version 9 is gone$"),
        ((grpc.StatusCode.UNAVAILABLE, "Socket closed"), UnreachableError, "^Socket closed$"),
    ],
)
def test_a_download_that_breaks_is_told_by_its_reason(
    refusal: Refusal, kind: type[FlockstepError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        get_model(Leader(version()[:2], refusal))


def test_a_leader_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_STALL_S", 0.2)
    with pytest.raises(StalledError, match=r"sent nothing for 0\.2 s"):
        get_model(Leader([*version()[:1], None]))


# --- data ----------------------------------------------------------------------------------


def dataset(labels: Iterable[int] = range(10)) -> Dataset:
    given_ = np.array(list(labels), np.int64)
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (len(given_), 3, 5, 5), dtype=np.uint8)
    return Dataset("random", images, given_, tuple("abcdefghij"))


def get_shard(leader: Leader, classes: int = 10) -> Shard:
    return talking(leader, lambda stub: pull_shard(stub, TOKEN, 3, "host:1", classes))


def test_a_shard_arrives_as_the_leader_has_it() -> None:
    leader = Leader(stream_shard(dataset(), np.array([7, 1, 4]), 100))
    shard = get_shard(leader)
    np.testing.assert_array_equal(shard.images, dataset().images[[7, 1, 4]])
    assert shard.labels.tolist() == [7, 1, 4]
    assert leader.requests == [leader_pb2.LearnerDataRequest(network_addr="host:1", token=TOKEN, shard=3)]


def payload(*tensors: tuple[str, str, tuple[int, ...]]) -> list[bytes]:
    """One message with these tensors, all zero."""
    size = sum(math.prod(shape) * DTYPES[dtype].itemsize for _, dtype, shape in tensors)
    return [frame(encode_header(tensors), bytes(size))]


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        (payload(("images", "U8", (2, 3, 4, 4))), PayloadError, r"this one \['images'\]"),
        (
            payload(("images", "U8", (2, 3, 4, 4)), ("labels", "I64", (2,)), ("more", "U8", (1,))),
            PayloadError,
            "a shard has images and labels",
        ),
        (
            payload(("images", "F32", (2, 3, 4, 4)), ("labels", "I64", (2,))),
            PayloadError,
            r"images are U8 \(N, 3, H, W\), these F32",
        ),
        (payload(("images", "U8", (2, 1, 4, 4)), ("labels", "I64", (2,))), PayloadError, r"these U8 \(2, 1"),
        (payload(("images", "U8", (2, 48)), ("labels", "I64", (2,))), PayloadError, r"these U8 \(2, 48\)"),
        (payload(("images", "U8", (2, 3, 4, 4)), ("labels", "U8", (2,))), PayloadError, "labels are I64"),
        (payload(("images", "U8", (2, 3, 4, 4)), ("labels", "I64", (3,))), PayloadError, r"these I64 \(3,\)"),
        (payload(("images", "U8", (0, 3, 4, 4)), ("labels", "I64", (0,))), PayloadError, r"these U8 \(0, 3"),
        ([frame(b"\xff" * 8)], LimitError, "safetensors header of"),
    ],
)
def test_a_shard_that_is_not_images_and_labels_is_refused(
    messages: list[bytes], kind: type[FlockstepError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        get_shard(Leader(messages))


@pytest.mark.parametrize(("classes", "sound"), [(10, True), (9, False)])
def test_labels_must_be_classes_of_the_run(classes: int, sound: bool) -> None:
    leader = Leader(stream_shard(dataset(), np.arange(10), 100))
    if sound:
        assert len(get_shard(leader, classes)) == 10
    else:
        with pytest.raises(PayloadError, match=r"labels outside 0\.\.8"):
            get_shard(leader, classes)


# --- updates -------------------------------------------------------------------------------


def send(leader: Leader, *, resume: bool = False) -> None:
    talking(leader, lambda stub: push(stub, TOKEN, held(), 256, resume=resume))


def test_a_pushed_update_arrives_as_it_was_made() -> None:
    leader = Leader()
    send(leader)
    assert leader.taken == list(held().messages(TOKEN, 256))
    assert leader.requests == []


@pytest.mark.parametrize("received", [0, 100, 1000])
def test_an_update_that_broke_off_is_sent_from_where_the_leader_has_it(received: int) -> None:
    leader = Leader(held=received)
    send(leader, resume=True)
    assert leader.taken == list(held().messages(TOKEN, 256, received))
    said = held().said
    assert leader.requests == [
        leader_pb2.UploadRequest(
            token=TOKEN, work_id=said.work_id, total_bytes=said.total_bytes, crc32=said.crc32
        )
    ]


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, "leader: counted before", DuplicateUpdateError),
        (grpc.StatusCode.ABORTED, "leader: round 4 has closed", LateUpdateError),
        (grpc.StatusCode.UNKNOWN, "Stream removed", UnreachableError),
    ],
)
def test_a_refused_update_is_told_by_its_reason(
    code: grpc.StatusCode, details: str, kind: type[FlockstepError]
) -> None:
    with pytest.raises(kind, match=details.removeprefix("leader: ")):
        send(Leader(refusal=(code, details)))


def test_a_refusal_is_heard_wherever_it_meets_the_stream() -> None:
    leader = Leader(refusal=(grpc.StatusCode.ABORTED, "leader: round 4 has closed"))
    layout = Layout.of(nn.Linear(1024, 512))
    values = np.zeros(layout.total, np.float32)
    large = HeldUpdate.of(ORDER, Update(values, examples=70, trained=64, loss=0.25, seconds=1.5), layout)

    async def pushes(stub: LeaderStub) -> list[BaseException | None]:
        eight = [[push(stub, TOKEN, large, 1 << 19) for _ in range(8)] for _ in range(25)]
        return [end for some in eight for end in await asyncio.gather(*some, return_exceptions=True)]

    ends = talking(leader, pushes)
    assert Counter(map(repr, ends)) == {"LateUpdateError('round 4 has closed')": 200}


def test_an_update_whose_stream_breaks_without_a_reason_goes_on() -> None:
    leader = Leader(held=100, breaks=4)
    send(leader)
    assert leader.taken == list(held().messages(TOKEN, 256, 100))
    assert len(leader.requests) == 4


def test_an_update_whose_stream_breaks_each_time_is_given_up() -> None:
    leader = Leader(breaks=6)
    with pytest.raises(UnreachableError, match="Received RST_STREAM"):
        send(leader)
    assert leader.breaks == 1
    assert leader.taken == []


def test_a_leader_that_is_not_there_is_unreachable() -> None:
    async def scenario() -> None:
        async with aio.insecure_channel("127.0.0.1:1") as channel:
            await push(LeaderStub(channel), TOKEN, held(), 256)

    with pytest.raises(UnreachableError):
        asyncio.run(scenario())
