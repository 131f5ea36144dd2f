from __future__ import annotations

import asyncio
import math
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import safetensors.numpy
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.aggregate import check_update
from leader.data.shard_stream import stream_shard
from leader.global_model.versions import VersionStore
from learner.training.update import Score, Update
from learner.wire import transfer
from learner.wire.connection import Endpoint
from learner.wire.encoding import Coding
from learner.wire.transfer import Download, pull_model, pull_shard, push
from learner.wire.whole_update import HeldUpdate
from model.image_classification import Shard
from model.layout import Entry, Layout
from protos import leader_pb2
from tests.tools.grpc_server import started
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
from utils.wire.contract import LeaderStub
from utils.wire.framing import frame
from utils.wire.payload import DTYPES, encode_header, parse_header
from utils.wire.rpc import INLINE_BYTES, SERVICE, raw

T = TypeVar("T")
LAYOUT = Layout.of(nn.Sequential(nn.Linear(30, 10), nn.BatchNorm1d(10)))
VALUES = np.random.Generator(np.random.PCG64(0)).normal(size=LAYOUT.total).astype(np.float32)
TOKEN = b"t" * 16
ORDER = leader_pb2.WorkOrder(work_id="w" * 32, round=4, version=9, exchange="delta")


UPDATE = Update(VALUES, examples=70, trained=64, loss=0.25, seconds=1.5)


def held(update: Update = UPDATE, layout: Layout = LAYOUT) -> HeldUpdate:
    file, _ = Coding(leader_pb2.RunDescription(), layout).encode(ORDER, update.values, {})
    return HeldUpdate.of(ORDER, update, file)


def parsed(messages: Iterable[bytes]) -> tuple[leader_pb2.UpdateHeader, list[bytes]]:
    first, *rest = [leader_pb2.GradientData.FromString(message) for message in messages]
    assert not any(message.HasField("header") for message in rest)
    return first.header, [message.chunk for message in (first, *rest) if message.chunk]


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


def test_what_stays_local_is_not_sent() -> None:
    layout = LAYOUT.keeping(["1.*"])
    header, chunks = parsed(held(layout=layout).messages(TOKEN, 256))
    arrays = safetensors.numpy.load(b"".join(chunks))
    assert set(arrays) == {"0.bias", "0.weight"}
    assert arrays["0.weight"].tobytes() == VALUES[:300].tobytes()
    assert arrays["0.bias"].tobytes() == VALUES[300:310].tobytes()
    assert header.total_bytes == sum(map(len, chunks))
    check_update(layout, parse_header(held(layout=layout).file.header))
    with pytest.raises(PayloadError, match=r"'1\.weight', which is to stay at the learner \(model\.local\)"):
        check_update(layout, parse_header(held().file.header))


@pytest.mark.parametrize("start_loss", [None, 0.0, 2.5])
def test_scores_and_start_loss_go_along(start_loss: float | None) -> None:
    scores = {"accuracy": Score(0.5, 4), "personal_accuracy": Score(0.75, 4)}
    update = Update(VALUES, 70, 64, 0.25, 1.5, scores=scores, start_loss=start_loss)
    header, _ = parsed(held(update).messages(TOKEN, 256))
    told = {metric.name: Score(metric.value, metric.examples) for metric in header.metrics}
    assert told == scores
    assert (header.start_loss if header.HasField("start_loss") else None) == start_loss


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


@pytest.mark.parametrize(("more", "first"), [(0, 1360), (1, 0)])
def test_a_small_update_goes_with_its_header(more: int, first: int) -> None:
    small = held()
    padding = np.zeros(INLINE_BYTES - small.file.total_bytes + more, np.uint8)
    file = replace(small.file, body=np.concatenate([small.file.body, padding]))
    messages = [
        leader_pb2.GradientData.FromString(one) for one in replace(small, file=file).messages(TOKEN, 1360)
    ]
    assert messages[0].HasField("header")
    assert len(messages[0].chunk) == first
    assert b"".join(one.chunk for one in messages) == file.header + file.body.tobytes()


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
        async with started(server) as at, asyncio.timeout(30), aio.insecure_channel(at) as channel:
            return await call(LeaderStub(channel))

    return asyncio.run(scenario())


# --- the model -----------------------------------------------------------------------------


def version(layout: Layout = LAYOUT) -> list[bytes]:
    vector = np.resize(VALUES, layout.total)
    return list(VersionStore(layout, 512).encode(9, vector).messages)


def get_model(leader: Leader, order: leader_pb2.WorkOrder = ORDER) -> Download:
    return talking(leader, lambda stub: pull_model(Endpoint(stub, TOKEN), order, LAYOUT))


def test_the_model_arrives_bit_for_bit() -> None:
    leader = Leader(version())
    model = get_model(leader)
    assert model.vector.tobytes() == VALUES.tobytes()
    assert model.control is None
    assert leader.requests == [leader_pb2.Empty(token=TOKEN, version=9)]


#: The same tensors as a file of weights alone has them: parameters and buffers, each sorted by name backwards.
BACKWARDS = Layout(
    tuple(sorted(LAYOUT.parameters, key=lambda entry: entry.name, reverse=True)),
    tuple(sorted(LAYOUT.buffers, key=lambda entry: entry.name, reverse=True)),
)
SCAFFOLD = leader_pb2.WorkOrder(work_id="w" * 32, round=4, version=9, exchange="delta", control_variates=True)
CONTROL = np.random.Generator(np.random.PCG64(1)).normal(size=LAYOUT.parameter_count).astype(np.float32)


def turned(vector: NDArray[np.float32], entries: Iterable[Entry]) -> NDArray[np.float32]:
    """`vector`, which lies as LAYOUT does, in the order of `entries`."""
    return np.concatenate([vector[entry.start : entry.start + entry.size] for entry in entries])


@pytest.mark.parametrize("layout", [LAYOUT, BACKWARDS], ids=["same order", "another order"])
@pytest.mark.parametrize("control", [False, True], ids=["alone", "with control variate"])
def test_the_model_and_the_control_variate_come_in_the_learners_order(layout: Layout, control: bool) -> None:
    assert [entry.name for entry in LAYOUT.entries] != [entry.name for entry in BACKWARDS.entries]
    variate = turned(CONTROL, layout.parameters) if control else None
    sent = VersionStore(layout, 512).encode(9, turned(VALUES, layout.entries), variate)
    model = get_model(Leader(sent.messages), SCAFFOLD if control else ORDER)
    assert model.vector.tobytes() == VALUES.tobytes()
    assert (None if model.control is None else model.control.tobytes()) == (
        CONTROL.tobytes() if control else None
    )


@pytest.mark.parametrize(
    ("control", "order", "message"),
    [
        (None, SCAFFOLD, r"'control_variate' as nothing, this learner's as F32\[330\]"),
        (CONTROL, ORDER, r"'control_variate' as F32\[330\], this learner's as nothing"),
    ],
)
def test_a_control_variate_must_come_if_and_only_if_the_order_wants_it(
    control: NDArray[np.float32] | None, order: leader_pb2.WorkOrder, message: str
) -> None:
    sent = VersionStore(LAYOUT, 512).encode(9, VALUES, control)
    with pytest.raises(IncompatibleError, match=message):
        get_model(Leader(sent.messages), order)


def test_a_control_variate_of_another_size_is_refused() -> None:
    parameters, buffers = LAYOUT.parameters, LAYOUT.buffers
    frozen = Layout(parameters[:-1], (parameters[-1], *buffers))  # as if the last did not train
    sent = VersionStore(frozen, 512).encode(9, VALUES, CONTROL[: frozen.parameter_count])
    with pytest.raises(IncompatibleError, match=r"as F32\[320\], this learner's as F32\[330\]"):
        get_model(Leader(sent.messages), SCAFFOLD)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(30, 10)), r"'1\.weight' as nothing, this learner's as F32\[10\]"),
        (
            nn.Sequential(nn.Linear(30, 11), nn.BatchNorm1d(11)),
            r"'0\.weight' as F32\[11, 30\], this learner's as F32\[10, 30\]",
        ),
        (
            nn.Sequential(nn.Linear(30, 10), nn.BatchNorm1d(10), nn.Linear(1, 1)),
            r"'2\.weight' as F32\[1, 1\], this learner's as nothing; install the same release",
        ),
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
    talking(leader, lambda stub: push(Endpoint(stub, TOKEN), held(), 256, resume=resume))


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
    large = held(Update(values, examples=70, trained=64, loss=0.25, seconds=1.5), layout)

    async def pushes(stub: LeaderStub) -> list[BaseException | None]:
        eight = [[push(Endpoint(stub, TOKEN), large, 1 << 19) for _ in range(8)] for _ in range(25)]
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
            await push(Endpoint(LeaderStub(channel), TOKEN), held(), 256)

    with pytest.raises(UnreachableError):
        asyncio.run(scenario())
