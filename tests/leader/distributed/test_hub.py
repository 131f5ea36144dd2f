"""Who is at a hub, and what is said there; a test plays edges message by message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from leader.distributed import lost_edges
from leader.distributed.contract import VERSION
from protos import edge_pb2
from tests.leader.distributed.hub_peers import SUM, Edge, Leader, opened, play, uid
from utils.errors import (
    DuplicateUpdateError,
    IncompatibleError,
    PayloadError,
    StalledError,
)


def test_a_refusal_reaches_the_edge_by_name() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        leader.refuses[uid(1)] = DuplicateUpdateError("is already counted")
        edge.say(receipt=edge_pb2.Receipt(uid=uid(1)))
        verdict = await edge.hear("verdict")
        assert (verdict.error, verdict.message) == ("DuplicateUpdateError", "is already counted")
        assert not leader.hub.holds(uid(1))

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


def test_edges_of_one_name_are_counted_each() -> None:
    async def story(leader: Leader) -> None:
        a, b = await Edge(leader.hub, "host").joined(), await Edge(leader.hub, "host").joined()
        await Edge(leader.hub, "aggregator").joined()  # which serves nobody
        leader.hub.open(edge_pb2.Open(round=1), SUM.size)
        assert (await a.hear("open")) == (await b.hear("open"))
        for number, (edge, address) in enumerate(((a, "h:1"), (b, "h:2"), (b, "h:3"))):
            edge.say(serving=edge_pb2.Serving(addresses=[address]))
            await edge.counts(number)
        a.hang_up()
        await a.stream
        assert leader.serving == [1, 2, 2, 1]

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


def test_who_is_revoked_is_told_to_those_that_are_here_and_to_those_that_come() -> None:
    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        revoked = edge_pb2.Revoked(names=["eve"])
        leader.hub.revoke(revoked)
        assert await edge.hear("revoked") == revoked
        late = await Edge(leader.hub).joined()
        assert await late.hear("revoked") == revoked  # before it is told what is open
        await late.hear("open")

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


def test_one_that_lost_its_stream_just_before_the_end_is_waited_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost_edges, "AGAIN_S", 3600.0)

    async def story(leader: Leader) -> None:
        one, other = await opened(leader, 2)
        other.hang_up()
        await other.stream
        leader.hub.end("the run is over")
        await one.hear("stop")
        await one.stream
        dismissed = asyncio.ensure_future(leader.hub.dismissed())
        late = Edge(leader.hub, "new")  # nobody waits for this one
        await late.hear("stop")
        await late.stream
        assert not dismissed.done()
        again = Edge(leader.hub, "e1")
        assert (await again.hear("stop")).reason == "the run is over"
        async with asyncio.timeout(20):
            await dismissed

    play(story)


def test_one_that_said_goodbye_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_edges, "AGAIN_S", 3600.0)

    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        edge.say(goodbye=edge_pb2.EdgeGoodbye())
        edge.hang_up()
        await edge.stream
        leader.hub.end("the run is over")
        async with asyncio.timeout(20):
            await leader.hub.dismissed()

    play(story)


def test_one_that_does_not_come_again_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_edges, "AGAIN_S", 0.05)

    async def story(leader: Leader) -> None:
        (edge,) = await opened(leader)
        edge.hang_up()
        await edge.stream
        leader.hub.end("the run is over")
        async with asyncio.timeout(20):
            await leader.hub.dismissed()

    play(story)
