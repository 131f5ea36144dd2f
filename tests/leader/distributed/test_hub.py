"""The hub against edges that a test plays, message by message."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from leader.distributed.contract import VERSION
from leader.distributed.hub import Hooks, Hub, Partial
from leader.distributed.messages import members_digest
from protos import edge_pb2
from utils.errors import (
    ChecksumError,
    DuplicateUpdateError,
    IncompatibleError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    WireError,
)

SUM = np.arange(16, dtype=np.uint8)


def uid(number: int) -> bytes:
    return bytes([number]) * 16


class Leader:
    """Whoever is above the hub: counts what it is told to, and notes what it hears."""

    def __init__(self, silent_s: float = 30.0, sum_s: float = 30.0) -> None:
        self.refuses: dict[bytes, WireError] = {}
        self.heard: list[bytes] = []
        self.held = asyncio.Event()
        self.held.set()
        self.lost: list[set[bytes]] = []
        self.taken: list[Partial] = []
        self.hub = Hub(
            self._welcome, self._submit, silent_s=silent_s, sum_s=sum_s, hooks=Hooks(lost=self._lose)
        )

    def _lose(self, uids: frozenset[bytes]) -> None:
        self.lost.append(set(uids))

    def _welcome(self) -> edge_pb2.Welcome:
        return edge_pb2.Welcome(run_id="r")

    async def _submit(self, receipt: edge_pb2.Receipt) -> None:
        self.heard.append(receipt.uid)
        await self.held.wait()
        if error := self.refuses.get(receipt.uid):
            raise error

    async def take(self, partial: Partial) -> None:
        self.taken.append(partial)


class Edge:
    """An edge, its two directions, and what becomes of its stream."""

    def __init__(self, hub: Hub, name: str = "e", hello: bool = True) -> None:
        self._hub = hub
        self._up: asyncio.Queue[edge_pb2.EdgeUp | None] = asyncio.Queue()
        self._down: asyncio.Queue[edge_pb2.EdgeDown] = asyncio.Queue()
        if hello:
            self.say(hello=edge_pb2.EdgeHello(protocol=VERSION, name=name))
        self.stream = asyncio.ensure_future(hub.join(self._messages(), self._down.put))
        self.token = b""

    async def _messages(self) -> AsyncIterator[edge_pb2.EdgeUp]:
        while (message := await self._up.get()) is not None:
            yield message

    def say(self, **kind: Any) -> None:
        self._up.put_nowait(edge_pb2.EdgeUp(**kind))

    def hang_up(self) -> None:
        self._up.put_nowait(None)

    async def hear(self, kind: str) -> Any:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(20):
            message = await self._down.get()
        assert message.WhichOneof("kind") == kind
        return getattr(message, kind)

    async def joined(self) -> Edge:
        self.token = (await self.hear("welcome")).token
        return self

    async def counts(self, *numbers: int) -> None:
        """Hand updates in, and hear that they count."""
        for number in numbers:
            self.say(receipt=edge_pb2.Receipt(uid=uid(number)))
            assert (await self.hear("verdict")) == edge_pb2.Verdict(uid=uid(number))

    async def put(self, close: edge_pb2.Close, data: bytes = SUM.tobytes(), **change: Any) -> None:
        header = edge_pb2.SumHeader(
            token=self.token,
            sum=close.sum,
            attempt=close.attempt,
            members=members_digest(close.uids),
            weights=[3],
            total_bytes=len(data),
            crc32=zlib.crc32(data),
        )
        for name, value in change.items():
            setattr(header, name, value)
        chunks = [
            edge_pb2.SumChunk(header=header),
            edge_pb2.SumChunk(chunk=data[:5]),
            edge_pb2.SumChunk(chunk=data[5:]),
        ]

        async def stream() -> AsyncIterator[edge_pb2.SumChunk]:
            for chunk in chunks:
                yield chunk

        await self._hub.put(stream())


Story = Callable[[Leader], Coroutine[Any, Any, None]]


def play(story: Story, **times: float) -> None:
    async def whole() -> None:
        leader = Leader(**times)
        await story(leader)

    asyncio.run(whole())


async def opened(leader: Leader, count: int = 1) -> list[Edge]:
    edges = [await Edge(leader.hub, f"e{number}").joined() for number in range(count)]
    leader.hub.open(edge_pb2.Open(round=1), SUM.size)
    for edge in edges:
        assert (await edge.hear("open")).round == 1
    return edges


def test_sums_over_what_counts_are_collected_from_whose_it_is() -> None:
    async def story(leader: Leader) -> None:
        a, b = await opened(leader, 2)
        await a.counts(1, 2)
        await b.counts(3)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1), uid(2), uid(3)], leader.take))
        first, second = await a.hear("close"), await b.hear("close")
        assert (list(first.uids), list(second.uids)) == ([uid(1), uid(2)], [uid(3)])
        await b.put(second)
        await a.put(first)
        assert await collecting == frozenset()
        assert [(set(p.uids), p.weights, p.data.tobytes()) for p in leader.taken] == [
            ({uid(3)}, (3,), SUM.tobytes()),
            ({uid(1), uid(2)}, (3,), SUM.tobytes()),
        ]
        assert not any(leader.hub.holds(uid(number)) for number in (1, 2, 3))

    play(story)


def test_a_refusal_reaches_the_edge_by_name() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        leader.refuses[uid(1)] = DuplicateUpdateError("is already counted")
        edge.say(receipt=edge_pb2.Receipt(uid=uid(1)))
        verdict = await edge.hear("verdict")
        assert (verdict.error, verdict.message) == ("DuplicateUpdateError", "is already counted")
        assert not leader.hub.holds(uid(1))

    play(story)


def test_what_an_edge_had_is_lost_with_it() -> None:
    async def story(leader: Leader) -> None:
        a, b = await opened(leader, 2)
        await a.counts(1, 2)
        await b.counts(3)
        a.hang_up()
        await a.stream
        assert leader.lost == [{uid(1), uid(2)}]
        assert not b.stream.done()
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1), uid(3)], leader.take))
        await b.put(await b.hear("close"))
        assert await collecting == {uid(1)}

    play(story)


def test_an_edge_that_goes_in_place_of_giving_its_sum_loses_it() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1)], leader.take))
        await edge.hear("close")
        edge.hang_up()
        assert await collecting == {uid(1)}
        assert leader.taken == []

    play(story)


def test_what_an_edge_says_is_gone_is_asked_for_no_more() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1, 2)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1), uid(2)], leader.take))
        await edge.hear("close")
        edge.say(gone=edge_pb2.Gone(uids=[uid(1), uid(9)]))
        close = await edge.hear("close")
        assert (close.attempt, list(close.uids)) == (2, [uid(2)])
        await edge.put(close)
        assert await collecting == {uid(1)}
        assert leader.lost == [{uid(1)}]

    play(story)


def test_an_edge_that_goes_at_the_very_moment_of_a_close_is_not_waited_for() -> None:
    async def story(leader: Leader) -> None:
        a, b = await opened(leader, 2)
        await a.counts(1, 2)
        await b.counts(3)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1), uid(2), uid(3)], leader.take))
        await asyncio.sleep(0)  # edges are chosen, and not yet asked
        leader.hub._gone(leader.hub._owner[uid(1)], frozenset({uid(1)}))
        leader.hub._forget(leader.hub._owner[uid(3)])
        close = await a.hear("close")
        assert list(close.uids) == [uid(2)]
        await a.put(close)
        assert await collecting == {uid(1), uid(3)}

    play(story)


def test_a_sum_that_does_not_come_in_time_is_lost_and_its_edge_let_go() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        assert await leader.hub.collect([uid(1)], leader.take) == {uid(1)}
        close = await edge.hear("close")
        await edge.stream
        with pytest.raises(UnknownLearnerError, match="of an edge that is not here"):
            await edge.put(close)

    play(story, sum_s=0.05)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"members": b"x"}, PayloadError, "over other updates"),
        ({"total_bytes": 17}, PayloadError, "has 17 bytes, this run's have 16"),
        ({"crc32": 1}, ChecksumError, "short or damaged"),
        ({"data": SUM.tobytes()[:-1], "total_bytes": 16}, ChecksumError, "short or damaged"),
        ({"data": SUM.tobytes() + b"x", "total_bytes": 16}, PayloadError, "more bytes than it said"),
        ({"attempt": 2}, NotReadyError, "nobody waits for this sum"),
        ({"sum": 9}, NotReadyError, "nobody waits for this sum"),
    ],
)
def test_a_sum_that_is_not_the_one_asked_for_is_refused_and_lost(
    change: dict[str, Any], error: type[WireError], words: str
) -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1)], leader.take))
        close = await edge.hear("close")
        with pytest.raises(error, match=words):
            await edge.put(close, **change)
        assert await collecting == {uid(1)}
        await edge.stream
        assert leader.taken == []

    play(story)


def test_a_sum_with_a_made_up_token_harms_nobody() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1)], leader.take))
        close = await edge.hear("close")
        with pytest.raises(UnknownLearnerError):
            await edge.put(close, token=b"y" * 16)
        await edge.put(close)
        assert await collecting == frozenset()

    play(story)


def test_a_sum_that_cant_be_one_is_lost_with_its_edge() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)

        async def refuse(partial: Partial) -> None:
            raise PayloadError("of other weights")

        collecting = asyncio.ensure_future(leader.hub.collect([uid(1)], refuse))
        with pytest.raises(PayloadError, match="of other weights"):
            await edge.put(await edge.hear("close"))
        assert await collecting == {uid(1)}
        await edge.stream

    play(story)


def test_what_is_being_taken_is_taken_though_its_edge_goes() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def take(partial: Partial) -> None:
            begun.set()
            await may_end.wait()
            await leader.take(partial)

        collecting = asyncio.ensure_future(leader.hub.collect([uid(1)], take))
        putting = asyncio.ensure_future(edge.put(await edge.hear("close")))
        await begun.wait()
        putting.cancel()
        edge.hang_up()
        await edge.stream
        assert not collecting.done()
        may_end.set()
        assert await collecting == frozenset()
        assert [set(partial.uids) for partial in leader.taken] == [{uid(1)}]
        assert leader.lost == [set()]

    play(story)


def test_a_sum_that_begins_voids_the_one_before() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        await edge.counts(1)
        leader.hub.open(edge_pb2.Open(round=2), SUM.size)
        assert (await edge.hear("open")).sum == 2
        assert not leader.hub.holds(uid(1))
        assert await leader.hub.collect([uid(1)], leader.take) == {uid(1)}

    play(story)


def test_whoever_joins_late_is_told_what_is_open() -> None:
    async def story(leader: Leader) -> None:
        leader.hub.open(edge_pb2.Open(round=4), SUM.size)
        edge = await Edge(leader.hub).joined()
        assert (await edge.hear("open")).round == 4

    play(story)


def test_the_addresses_of_all_edges_are_known_once_each() -> None:
    async def story(leader: Leader) -> None:
        a, b = await opened(leader, 2)
        a.say(serving=edge_pb2.Serving(addresses=["h:1", "h:2"], urls=["https://h:4"]))
        b.say(serving=edge_pb2.Serving(addresses=["h:2", "h:3"], urls=["https://h:4", "http://h:5"]))
        await a.counts(1)
        await b.counts(2)
        assert leader.hub.addresses == ("h:1", "h:2", "h:3")
        assert leader.hub.urls == ("https://h:4", "http://h:5")

    play(story)


@pytest.mark.parametrize(
    "said",
    [
        {"receipt": edge_pb2.Receipt(uid=b"short")},
        {"receipt": edge_pb2.Receipt(uid=uid(1))},
        {"serving": edge_pb2.Serving(addresses=["nowhere"])},
        {"serving": edge_pb2.Serving(addresses=["h:1", "unix:/h:0"])},  # which learners would refuse
        {"serving": edge_pb2.Serving(addresses=["h:1"] * 5000)},
        {"serving": edge_pb2.Serving(urls=["ftp://h:1"])},
        {"serving": edge_pb2.Serving(urls=["https://h:1/path"])},
        {"serving": edge_pb2.Serving(urls=["https://h:1"] * 5000)},
    ],
)
def test_an_edge_that_says_what_cant_be_is_let_go(said: dict[str, Any]) -> None:
    async def story(leader: Leader) -> None:
        a, b = await opened(leader, 2)
        await a.counts(1)
        b.say(**said)
        await b.stream
        assert not a.stream.done()
        assert leader.hub.holds(uid(1))

    play(story)


def test_a_stream_that_begins_otherwise_is_refused() -> None:
    async def story(leader: Leader) -> None:
        edge = Edge(leader.hub, hello=False)
        edge.say(beat=edge_pb2.EdgeBeat())
        with pytest.raises(PayloadError, match="begins with hello"):
            await edge.stream
        edge = Edge(leader.hub, hello=False)
        edge.say(hello=edge_pb2.EdgeHello(protocol=VERSION + 1, release="9"))
        with pytest.raises(IncompatibleError, match="install the same release"):
            await edge.stream

    play(story)


def test_a_silent_edge_is_let_go() -> None:
    async def story(leader: Leader) -> None:
        edge = await Edge(leader.hub).joined()
        await edge.stream
        with pytest.raises(StalledError, match="did not say hello"):
            await Edge(leader.hub, hello=False).stream

    play(story, silent_s=0.05)


def test_receipts_that_nobody_has_judged_are_given_up_with_their_edge() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        leader.held.clear()
        edge.say(receipt=edge_pb2.Receipt(uid=uid(1)))
        edge.hang_up()
        await edge.stream
        assert leader.lost == [{uid(1)}]
        assert not leader.hub.holds(uid(1))

    play(story)


def test_the_end_of_the_run_is_told() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        leader.hub.end("the run is over")
        assert (await edge.hear("stop")).reason == "the run is over"
        await edge.stream
        late = Edge(leader.hub)
        assert (await late.hear("stop")).reason == "the run is over"
        await late.stream

    play(story)
