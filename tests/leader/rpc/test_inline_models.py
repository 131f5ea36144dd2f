from __future__ import annotations

import asyncio

import numpy as np
import pytest

from leader.global_model.versions import ModelVersion, VersionStore
from leader.learners.membership import Member, Membership
from leader.rpc.inline_models import InlineModels
from leader.training.round_metrics import Traffic
from leader.trust.access.limiter import Quota
from leader.trust.identities.callers import _CALLER, anonymous
from model.layout import Entry, Layout
from protos import leader_pb2
from utils.codecs.files import File
from utils.wire.payload import PayloadReader
from utils.wire.rpc import INLINE_BYTES

ANN = anonymous("ipv4:1.1.1.1:1")


def vector(size: int) -> Layout:
    return Layout((Entry("w", (size,), 0, size),), ())


LAYOUT, TOO_LARGE = vector(INLINE_BYTES // 8), vector(INLINE_BYTES // 4)
CHANGE = File(b"", np.zeros(4, np.uint8))


def learner(inline_bytes: int = INLINE_BYTES) -> Member:
    info = leader_pb2.LearnerInfo(name="a", control=leader_pb2.CONTROL_SESSION, inline_bytes=inline_bytes)
    return Membership(max_learners=1, lease_s=5.0).register(info, ANN, 0.0)[0]


def told(version: int) -> leader_pb2.LeaderMessage:
    return leader_pb2.LeaderMessage(work=leader_pb2.WorkOrder(work_id=f"w{version}", version=version))


class Served:
    """A store with version 1 and then version 2, and what sessions are sent."""

    def __init__(self, layout: Layout = LAYOUT, most: int = 1, change: bool = False) -> None:
        self.store = VersionStore(layout, 1 << 20)
        self.traffic = Traffic()
        self.models = InlineModels(self.store, self.traffic, most)
        self.sent: list[leader_pb2.LeaderMessage] = []
        for number in (1, 2):
            self.store.publish(self.version(layout, number, change))

    def version(self, layout: Layout, number: int, change: bool) -> ModelVersion:
        values = np.full(layout.total, number, np.float32)
        return self.store.encode(number, values, change=(number - 1, CHANGE) if change else None)

    async def send(self, message: leader_pb2.LeaderMessage) -> None:
        self.sent.append(message)

    def says(self, *messages: leader_pb2.LeaderMessage, to: Member | None = None) -> list[int]:
        """How large the models are that go with these messages of one session."""

        async def scenario() -> None:
            _CALLER.set(ANN)
            tell = self.models.beside(to or learner(), self.send)
            for message in messages:
                await tell(message)

        asyncio.run(scenario())
        assert [one.WhichOneof("kind") for one in self.sent] == [one.WhichOneof("kind") for one in messages]
        return [len(one.model) for one in self.sent]


def test_an_order_brings_the_file_that_a_download_would() -> None:
    served = Served()
    (size,) = served.says(told(2))
    (message,) = served.sent
    assert message.work == told(2).work
    reader = PayloadReader(max_bytes=INLINE_BYTES, header_bytes=1 << 20)
    reader.feed(message.model)
    assert reader.finish().arrays()["w"].tolist() == [2.0] * LAYOUT.total
    frames = b"".join(served.store.stream(served.store.get(2)))
    assert frames.endswith(message.model)
    assert served.traffic.down == size > 4 * LAYOUT.total


def test_a_version_goes_once_over_a_session() -> None:
    committed = leader_pb2.LeaderMessage(committed=leader_pb2.Committed(round=1))
    first, *rest = Served().says(told(2), told(2), committed, told(2))
    assert first > 0
    assert rest == [0, 0, 0]


def test_a_learner_gets_no_model_that_it_has_not_said_it_takes() -> None:
    assert Served().says(told(2), to=learner(0)) == [0]
    (size,) = Served().says(told(2))
    assert Served().says(told(2), to=learner(size - 1)) == [0]
    assert Served().says(told(2), to=learner(size)) == [size]
    assert Served(TOO_LARGE).says(told(2), to=learner((1 << 32) - 1)) == [0]


def test_what_is_not_served_or_comes_otherwise_is_left_to_be_fetched() -> None:
    elsewhere = told(2)
    elsewhere.work.via.edges.append("127.0.0.1:1")
    assert Served().says(elsewhere) == [0]
    assert Served().says(told(1)) == [0]  # replaced
    assert Served(change=True).says(told(2)) == [0]  # the change is smaller
    assert Served(most=0).says(told(2)) == [0]


def test_models_count_in_their_learners_quota_and_beyond_it_none_go() -> None:
    served = Served()
    served.traffic.down_quota = Quota(1, "download")
    version_3 = served.version(LAYOUT, 3, False)

    async def scenario() -> None:
        _CALLER.set(ANN)
        tell = served.models.beside(learner(), served.send)
        await tell(told(2))
        served.store.publish(version_3)
        await tell(told(3))

    asyncio.run(scenario())
    assert [bool(message.model) for message in served.sent] == [True, False]


@pytest.mark.parametrize("breaks", [False, True])
def test_those_who_do_not_read_hold_up_nobody(breaks: bool) -> None:
    served = Served(most=1)

    async def scenario() -> None:
        read = asyncio.Event()

        async def send_slowly(message: leader_pb2.LeaderMessage) -> None:
            await read.wait()

        slow = asyncio.ensure_future(served.models.beside(learner(), send_slowly)(told(2)))
        await asyncio.sleep(0)
        await served.models.beside(learner(), served.send)(told(2))
        if breaks:
            slow.cancel()
        read.set()
        await asyncio.gather(slow, return_exceptions=True)
        await served.models.beside(learner(), served.send)(told(2))

    asyncio.run(scenario())
    assert [bool(message.model) for message in served.sent] == [False, True]
