from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leader.aggregation.decoding import Decoder
from leader.config import CodecConfig, LimitsConfig
from leader.rpc.uploads import Uploads
from leader.training.inbox import Upload
from leader.training.round_metrics import Traffic
from model.layout import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils.errors import ChecksumError, FlockstepError, LimitError, PayloadError, StalledError
from utils.wire.payload import encode_header
from utils.wire.rpc import UploadMessage

LAYOUT = Layout.of(nn.Linear(30, 10))
VALUES = np.arange(LAYOUT.total, dtype=np.float32)


def file(values: np.ndarray[tuple[int], np.dtype[np.float32]] = VALUES) -> bytes:
    return encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries) + values.tobytes()


FILE = file()
#: The budget holds one upload of such a file, and the message that gRPC may be taking in; a second one waits.
LIMITS = LimitsConfig(header_bytes=600 << 10, stall_s=30.0).model_copy(update={"message_bytes": len(FILE)})
LIMITS = LIMITS.model_copy(update={"upload_bytes": len(FILE) + 1})
TWO = LIMITS.model_copy(update={"upload_bytes": 2 * len(FILE) + 1})
IMPATIENT = LIMITS.model_copy(update={"stall_s": 0.02})


def header(
    data: bytes = FILE,
    *,
    work: str = "work",
    total: int | None = None,
    crc: int | None = None,
    offset: int = 0,
) -> leader_pb2.UpdateHeader:
    return leader_pb2.UpdateHeader(
        work_id=work,
        examples=7,
        total_bytes=len(data) if total is None else total,
        crc32=zlib.crc32(data) if crc is None else crc,
        offset=offset,
    )


def announced(head: leader_pb2.UpdateHeader, chunk: bytes = b"") -> leader_pb2.GradientData:
    return leader_pb2.GradientData(header=head, chunk=chunk)


def cut(data: bytes, size: int = 300) -> list[UploadMessage]:
    return [memoryview(data[start : start + size]) for start in range(0, len(data), size)]


def test_a_long_header_is_read_off_the_event_loop_and_a_short_one_on_it() -> None:
    async def threads_of(file: bytes) -> tuple[bool, bool]:
        these, seen = uploads(), []
        reader = these.reader(1 << 20, lambda manifest: seen.append(threading.current_thread()))
        for start in range(0, len(file), 10_000):
            await these.feed(reader, memoryview(file)[start : start + 10_000])
        assert reader.finish().data.tobytes() == VALUES.tobytes()
        return seen == [threading.main_thread()], len(seen) == 1

    assert asyncio.run(threads_of(FILE)) == (True, True)
    assert asyncio.run(threads_of(padded(16 << 10))) == (True, True)
    assert asyncio.run(threads_of(padded((16 << 10) + 1))) == (False, True)


def padded(size: int) -> bytes:
    """FILE with a header of so many bytes."""
    text = FILE[8 : -VALUES.nbytes].ljust(size)
    return len(text).to_bytes(8, "little") + text + VALUES.tobytes()


def test_a_header_may_be_no_longer_than_the_layout_can_need() -> None:
    most = PieceFiles(LAYOUT, 1).header_bytes
    assert most == 4 * (len(FILE) - VALUES.nbytes) + (16 << 10) < LIMITS.header_bytes
    assert values_of(receive(memoryview(padded(most)))) == VALUES.tolist()
    with pytest.raises(LimitError, match=f"header of {most + 1} bytes; at most {most} are taken"):
        receive(memoryview(padded(most + 1)))


class _BrokenError(Exception):
    """The connection is gone."""


async def stream(messages: Iterable[UploadMessage | Exception | None]) -> AsyncIterator[UploadMessage]:
    """The messages; None waits for ever, an exception breaks the stream."""
    for message in messages:
        if message is None:
            await asyncio.Event().wait()
        elif isinstance(message, Exception):
            raise message
        else:
            await asyncio.sleep(0)
            yield message


def uploads(limits: LimitsConfig = LIMITS, traffic: Traffic | None = None, is_open: bool = True) -> Uploads:
    return Uploads(Decoder(CodecConfig(), LAYOUT), limits, traffic or Traffic(), lambda work_id: is_open)


@asynccontextmanager
async def receiving(
    these: Uploads, source: AsyncIterator[UploadMessage], caller: str = "a"
) -> AsyncIterator[Upload]:
    """One upload, as the service has it read."""
    async with (
        these.opening(caller, source, ranked=True) as opening,
        these.receiving(caller, opening, source) as upload,
    ):
        yield upload


async def fill(these: Uploads, count: int) -> None:
    """Hold the memory of `count` uploads at once; waits for ever where the budget has less."""
    async with asyncio.timeout(20), AsyncExitStack() as held:
        for i in range(count):
            source = stream([announced(header(work=f"filling {i}")), *cut(FILE)])
            await held.enter_async_context(receiving(these, source))


async def received(these: Uploads, *messages: UploadMessage | Exception | None, caller: str = "a") -> Upload:
    """One upload from its first message to its last."""
    source = stream(messages)
    async with asyncio.timeout(20):
        async with receiving(these, source, caller) as upload:
            return upload


def receive(*messages: UploadMessage | Exception | None, limits: LimitsConfig = LIMITS) -> Upload:
    return asyncio.run(received(uploads(limits), *messages))


def values_of(upload: Upload) -> list[float]:
    return [float(value) for value in upload.payload.data.view(np.float32)]


@given(size=st.integers(1, 2000), beside=st.booleans())
def test_a_full_learners_update_arrives_however_it_is_cut(size: int, beside: bool) -> None:
    first, *rest = cut(FILE, size)
    assert isinstance(first, memoryview)
    start = [announced(header(), bytes(first))] if beside else [announced(header()), first]
    upload = receive(*start, *rest)
    assert values_of(upload) == VALUES.tolist()
    assert upload.header is not None
    assert (upload.header.examples, upload.bytes) == (7, len(FILE))


def test_a_plain_learners_update_has_no_header() -> None:
    upload = receive(*cut(FILE))
    assert upload.header is None
    assert values_of(upload) == VALUES.tolist()


def test_chunks_that_the_generated_parser_read_count_like_others() -> None:
    upload = receive(leader_pb2.GradientData(chunk=FILE[:400]), leader_pb2.GradientData(chunk=FILE[400:]))
    assert values_of(upload) == VALUES.tolist()


def test_all_bytes_are_counted_also_those_of_a_refused_update() -> None:
    traffic = Traffic(up=5)

    async def scenario() -> None:
        these = uploads(traffic=traffic)
        await received(these, announced(header()), *cut(FILE))
        with pytest.raises(PayloadError):
            await received(these, *cut(FILE[:500]))

    asyncio.run(scenario())
    assert traffic.up == 5 + len(FILE) + 500


def other_names() -> bytes:
    return encode_header([("other", "F32", (LAYOUT.total,))]) + VALUES.tobytes()


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        pytest.param([], PayloadError, "the update is empty", id="nothing"),
        pytest.param([memoryview(b"")] * 3, PayloadError, "the update is empty", id="empty messages"),
        pytest.param(
            [announced(header())], PayloadError, "after 0 bytes, inside its header", id="header only"
        ),
        pytest.param(
            [announced(header()), *cut(FILE[:-1])], PayloadError, "ended after 1239 of 1240", id="short"
        ),
        pytest.param([*cut(FILE + b"x")], PayloadError, "goes on after its 1240 bytes", id="long"),
        pytest.param(
            [memoryview(FILE[:300]), announced(header(), FILE[300:])],
            PayloadError,
            "may only stand in the first message",
            id="header late",
        ),
        pytest.param(
            [announced(header()), announced(header(), FILE)],
            PayloadError,
            "may only stand in the first message",
            id="header twice",
        ),
        pytest.param(
            [announced(header(total=1 << 40)), *cut(FILE)],
            LimitError,
            f"update of {1 << 40} bytes; at most",
            id="announced too long",
        ),
        pytest.param(
            [announced(header(total=len(FILE) + 1)), *cut(FILE)],
            PayloadError,
            f"announced with {len(FILE) + 1} bytes, its tensors need {len(FILE)}",
            id="announced wrongly",
        ),
        pytest.param(
            [announced(header(crc=1)), *cut(FILE)], ChecksumError, "announced was 00000001", id="checksum"
        ),
        pytest.param(cut(other_names()), PayloadError, "'other' that the model does not have", id="names"),
        pytest.param(
            [memoryview((700 << 10).to_bytes(8, "little"))],
            LimitError,
            "header of 716800 bytes",
            id="large header",
        ),
        pytest.param(cut(b"not safetensors at all"), LimitError, "safetensors header of", id="not a payload"),
    ],
)
def test_a_bad_update_is_refused_and_its_memory_let_go(
    messages: list[UploadMessage], kind: type[FlockstepError], message: str
) -> None:
    async def scenario() -> None:
        these = uploads()
        with pytest.raises(kind, match=message):
            await received(these, *messages)
        # The budget holds one upload: this one would wait for ever if the bad one still had it.
        assert values_of(await received(these, announced(header(work="next")), *cut(FILE))) == VALUES.tolist()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([None], id="before the first message"),
        pytest.param([announced(header()), None], id="after the header"),
        pytest.param([announced(header()), *cut(FILE)[:2], None], id="in the middle"),
        pytest.param([*cut(FILE), None], id="at the end"),
    ],
)
def test_a_silent_learner_is_not_waited_for(messages: list[UploadMessage | None]) -> None:
    with pytest.raises(StalledError, match=r"no bytes for 0\.02 s in the middle of an update"):
        receive(*messages, limits=IMPATIENT)


def test_empty_messages_are_no_progress() -> None:
    async def trickle() -> AsyncIterator[UploadMessage]:
        for message in cut(FILE)[:2]:
            yield message
        for _ in range(200):
            await asyncio.sleep(0.001)
            yield memoryview(b"")
            yield leader_pb2.GradientData()
        for message in cut(FILE)[2:]:
            yield message

    async def scenario() -> None:
        these, source = uploads(IMPATIENT), trickle()
        async with asyncio.timeout(20):
            with pytest.raises(StalledError):
                async with receiving(these, source):
                    pass

    asyncio.run(scenario())


def test_a_dribble_of_bytes_is_not_progress_enough() -> None:
    async def dribble() -> AsyncIterator[UploadMessage]:
        for position in range(len(FILE)):
            await asyncio.sleep(0.002)
            yield memoryview(FILE[position : position + 1])

    async def scenario() -> None:
        these, source = uploads(LIMITS.model_copy(update={"stall_s": 0.3})), dribble()
        with pytest.raises(StalledError, match=r"next to no bytes for 0\.3 s"):
            async with receiving(these, source):
                pass

    asyncio.run(scenario())


# --- broken streams ------------------------------------------------------------------------


def request(head: leader_pb2.UpdateHeader) -> leader_pb2.UploadRequest:
    return leader_pb2.UploadRequest(work_id=head.work_id, total_bytes=head.total_bytes, crc32=head.crc32)


async def broken(these: Uploads, head: leader_pb2.UpdateHeader, data: bytes, caller: str = "a") -> None:
    with pytest.raises(_BrokenError):
        await received(these, announced(head), *cut(data), _BrokenError(), caller=caller)


@given(st.integers(len(FILE) - 1240, len(FILE) - 1))
def test_a_broken_upload_goes_on_where_it_stopped(end: int) -> None:
    async def scenario() -> None:
        these = uploads()
        await broken(these, header(), FILE[:end])
        assert these.received(request(header())) == end
        upload = await received(these, announced(header(offset=end)), *cut(FILE[end:]))
        assert values_of(upload) == VALUES.tolist()
        assert upload.payload.crc32 == zlib.crc32(FILE)
        assert these.received(request(header())) == 0

    asyncio.run(scenario())


def test_a_broken_upload_may_be_sent_again_from_the_start() -> None:
    async def scenario() -> None:
        these = uploads()
        await broken(these, header(), FILE[:900])
        assert values_of(await received(these, announced(header()), *cut(FILE))) == VALUES.tolist()

    asyncio.run(scenario())


@pytest.mark.parametrize("offset", [899, 901, len(FILE)])
def test_going_on_at_another_byte_is_refused_and_frees_the_memory(offset: int) -> None:
    async def scenario() -> None:
        these = uploads(TWO)
        await broken(these, header(), FILE[:900])
        with pytest.raises(ChecksumError, match=f"the first {offset} bytes are no longer held here"):
            await received(these, announced(header(offset=offset)), *cut(FILE[offset:]))
        await fill(these, 2)

    asyncio.run(scenario())


def test_only_the_same_bytes_go_on() -> None:
    async def scenario() -> None:
        these = uploads()
        await broken(these, header(), FILE[:900])
        for other in (header(work="other"), header(total=len(FILE) + 4), header(crc=3)):
            assert these.received(request(other)) == 0

    asyncio.run(scenario())


def test_a_broken_upload_makes_room_for_another_one() -> None:
    async def scenario() -> None:
        these = uploads()
        await broken(these, header(), FILE[:900])
        await received(these, announced(header(work="other")), *cut(FILE))
        assert these.received(request(header())) == 0

    asyncio.run(scenario())


def test_a_caller_that_breaks_off_over_and_over_drops_its_own_and_not_what_others_left() -> None:
    async def scenario() -> None:
        these = uploads(TWO)
        await broken(these, header(work="honest"), FILE[:900], "honest")
        for number in range(5):
            await broken(these, header(work=f"{number}"), FILE[:500], "attacker")
        left = [these.received(request(header(work=work))) for work in ("honest", "3", "4")]
        assert left == [900, 0, 500]

    asyncio.run(scenario())


def test_a_first_message_has_its_place_until_the_update_has_one() -> None:
    async def scenario() -> None:
        these = uploads(LIMITS.model_copy(update={"message_bytes": 65 << 10, "upload_bytes": 130 << 10}))
        large, small = announced(header(), bytes(65 << 10)), announced(header())
        held = []
        for message in (large, large, small):
            source = stream([message])
            async with these.opening("a", source, ranked=True):
                held.append(these._firsts.held)
        assert held == [1, 1, 0]

    asyncio.run(scenario())


def test_a_plain_learners_first_message_is_read_in_the_place_of_its_update() -> None:
    async def scenario() -> None:
        these, source = uploads(), stream(cut(FILE))
        async with (
            these.opening("plain", source, ranked=True, whole=True) as opening,
            these.receiving("plain", opening, source) as upload,
        ):
            assert these._budget.held == LIMITS.header_bytes + 4 * LAYOUT.total
            assert values_of(upload) == VALUES.tolist()
        assert these._budget.held == 0

    asyncio.run(scenario())


def test_bytes_for_work_that_has_closed_are_dropped() -> None:
    roomy = LIMITS.model_copy(update={"upload_bytes": 8 << 20})

    async def scenario(is_open: bool) -> int:
        these = uploads(roomy, is_open=is_open)
        await broken(these, header(), FILE[:900])
        await received(these, announced(header(work="other")), *cut(FILE))
        return these.received(request(header()))

    assert asyncio.run(scenario(is_open=True)) == 900
    assert asyncio.run(scenario(is_open=False)) == 0


def test_two_broken_streams_of_one_update_hold_the_memory_of_one() -> None:
    async def scenario() -> None:
        these = uploads(TWO)
        await asyncio.gather(*(broken(these, header(), FILE[:end]) for end in (900, 1200)))
        assert these.received(request(header())) in (900, 1200)
        await fill(these, 2)

    asyncio.run(scenario())


def test_uploads_beyond_the_budget_wait_their_turn() -> None:
    async def scenario() -> None:
        these = uploads()
        order = []

        async def one(name: str) -> None:
            await received(these, announced(header(work=name)), *cut(FILE), caller=name)
            order.append(name)

        source = stream([announced(header()), *cut(FILE)])
        waiting = []
        async with receiving(these, source, "first"):
            for name in ("a", "b", "c"):
                waiting.append(asyncio.ensure_future(one(name)))
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0)
            assert order == []
        await asyncio.gather(*waiting)
        assert order == ["a", "b", "c"]

    asyncio.run(scenario())
