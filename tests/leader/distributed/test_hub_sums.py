"""The sums that a hub gets of edges, which a test plays message by message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from leader.distributed.edge_below import Partial
from protos import edge_pb2
from tests.leader.distributed.hub_peers import SUM, Leader, opened, play, uid
from utils.errors import (
    ChecksumError,
    NotReadyError,
    PayloadError,
    UnknownLearnerError,
    WireError,
)


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


def test_a_sum_that_waits_while_another_comes_is_not_late_for_that() -> None:
    async def story(leader: Leader) -> None:
        slow, prompt = await opened(leader, 2)
        await slow.counts(1)
        await prompt.counts(2)
        collecting = asyncio.ensure_future(leader.hub.collect([uid(1), uid(2)], leader.take))
        first, second = await slow.hear("close"), await prompt.hear("close")
        rest = asyncio.Event()
        coming = asyncio.ensure_future(slow.put(first, rest=rest))
        waiting = asyncio.ensure_future(prompt.put(second))
        await slow.stream  # it is let go
        rest.set()
        with pytest.raises(NotReadyError, match="nobody waits for this sum"):
            await coming
        await waiting
        assert await collecting == {uid(1)}
        assert [set(partial.uids) for partial in leader.taken] == [{uid(2)}]
        assert not prompt.stream.done()

    play(story, sum_s=0.2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"members": b"x"}, PayloadError, "over other updates"),
        ({"total_bytes": 17}, PayloadError, "has 17 bytes, this run's have 16"),
        ({"damage": 1}, ChecksumError, "came damaged"),
        ({"data": SUM.tobytes()[:-1], "total_bytes": 16}, ChecksumError, "came short"),
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
