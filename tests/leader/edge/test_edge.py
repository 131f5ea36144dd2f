"""An edge between learners that send and a parent that judges: what is added, taken out again, given and lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc import aio

from leader.aggregation.exact_sum import Scale
from leader.distributed.messages import scale_message
from leader.distributed.ticket import seal
from leader.edge.app import App
from leader.edge.options import EdgeOptions
from protos import edge_pb2, leader_pb2
from tests.clusters import Settings
from tests.leader.distributed.hub_peers import Edge
from tests.leader.edge.parents import (
    HELLO,
    KEY,
    MODEL,
    VERSION,
    Learner,
    Parent,
    config_of,
    edge_of,
    mean_of,
    play,
    stub_of,
)
from utils.errors import (
    DuplicateUpdateError,
    EndedError,
    ForbiddenError,
    LateUpdateError,
    LimitError,
    NotReadyError,
    PayloadError,
    WireError,
)
from utils.wire.contract import LeaderStub
from utils.wire.status import failures_told


@pytest.mark.parametrize(
    "settings",
    [{}, {"codec.up": "int8"}, {"aggregate.weighting": "fednova"}, {"aggregate.weighting": "qfedavg"}],
    ids=str,
)
def test_the_sum_has_the_bits_of_one_made_of_the_same_updates(settings: Settings) -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(3)
            learners = [Learner(number, parent) for number in range(5)]
            acks = await asyncio.gather(*(learner.send(stub) for learner in learners))
            assert {(ack.success, ack.message) for ack in acks} == {(True, "counted")}
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, *learners)

    play(story, settings)


def test_what_is_refused_is_told_by_name_and_taken_out_of_the_sum() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            learners = [Learner(number, parent) for number in range(3)]
            parent.refuses[learners[1].ticket.work_id] = DuplicateUpdateError("is already counted")
            with pytest.raises(DuplicateUpdateError, match="is already counted"), failures_told():
                await learners[1].send(stub)
            for learner in (learners[0], learners[2]):
                await learner.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learners[0], learners[2])

    play(story)


def test_one_that_waits_at_the_close_is_left_out_and_is_in_the_next_sum() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            first, second = Learner(1, parent), Learner(2, parent)
            parent.held.add(second.ticket.work_id)
            waiting = asyncio.ensure_future(second.send(stub))
            await parent.until(lambda: len(parent.receipts) == 1)
            await first.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, first)
            parent.held.clear()
            await parent._notify()
            await waiting
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, first, second)

    play(story)


def test_a_learner_that_hangs_up_leaves_an_update_that_is_judged_nevertheless() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            gone, other = Learner(1, parent), Learner(2, parent)
            parent.held.add(gone.ticket.work_id)
            call = asyncio.ensure_future(gone.send(stub))
            await parent.until(lambda: len(parent.receipts) == 1)
            call.cancel()
            await asyncio.wait((call,))
            parent.held.clear()
            await parent._notify()
            await other.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, gone, other)

    play(story)


def test_with_the_parent_all_that_was_added_is_lost_and_the_edge_joins_the_next() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            learner = Learner(1, parent)
            parent.held.add(learner.ticket.work_id)
            waiting = asyncio.ensure_future(learner.send(stub))
            await parent.until(lambda: len(parent.receipts) == 1)
            parent.hub.end()
            with pytest.raises(NotReadyError, match="lost its leader"), failures_told():
                await waiting
            assert parent.lost == {parent.receipts[0].uid}
            parent.held.clear()
            await parent.until(lambda: len(parent.hub.addresses) == 1)
            await learner.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    play(story)


def test_an_edge_that_says_hello_once_the_one_above_has_lost_its_leader_is_to_come_again() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent, edges_listen="127.0.0.1:0") as edge:
            below = Edge(edge._hub(), hello=False)
            await asyncio.sleep(0)  # its stream is open
            edge._link.end()  # type: ignore[union-attr]
            below.say(hello=HELLO.hello)
            with pytest.raises(NotReadyError, match="come again"):
                await asyncio.wait_for(below.stream, 5)

    play(story)


def test_limits_that_a_resumed_run_has_changed_hold_at_its_edges_too() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent):
            parent.open(1)
            async with stub_of(parent.hub.addresses[0]) as stub:
                with pytest.raises(LimitError, match="at most 4 are taken"), failures_told():
                    await Learner(1, parent).send(stub)
            parent.config = config_of({})
            parent.hub.end()
            await parent.until(lambda: not parent.hub.addresses)
            await parent.until(lambda: len(parent.hub.addresses) == 1)
            learner = Learner(1, parent)
            async with stub_of(parent.hub.addresses[0]) as stub:
                await learner.send(stub)
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    play(story, {"limits.tensors": 4})


def test_without_a_parent_nothing_is_taken() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent) as edge, stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            learner = Learner(1, parent)
            await learner.send(stub)
            edge._link.end()  # type: ignore[union-attr]
            for call in (learner.send(stub), model(stub, learner), upload_status(stub, learner)):
                with pytest.raises(NotReadyError, match="no leader at the moment"), failures_told():
                    await call

    play(story)


async def model(stub: LeaderStub, learner: Learner, have: int | None = None, version: int = VERSION) -> bytes:
    request = leader_pb2.Empty(ticket=learner.sealed, version=version, have=have)
    return b"".join([bytes(chunk) async for chunk in stub.get_model(request)])


async def upload_status(stub: LeaderStub, learner: Learner, work_id: str = "") -> leader_pb2.UploadStatus:
    said = learner.held.said
    return await stub.get_upload(
        leader_pb2.UploadRequest(
            ticket=learner.sealed,
            work_id=work_id or said.work_id,
            total_bytes=said.total_bytes,
            crc32=said.crc32,
        )
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"run_id": "other"}, ForbiddenError, "of another run"),
        ({"until": 1}, EndedError, "has ended"),
        ({"round": 1}, LateUpdateError, "round 1, which is over"),
        ({"examples": 5}, LimitError, "claims 11 examples, its part has 5"),
        ({"work_id": "2-0-" + "f" * 32}, PayloadError, "for other work than its ticket"),
    ],
)
def test_an_update_that_its_ticket_does_not_allow_is_refused_unread(
    change: dict[str, object], error: type[WireError], words: str
) -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(2)
            learner, honest = Learner(1, parent), Learner(2, parent)
            for name, value in change.items():
                setattr(learner.ticket, name, value)
            with pytest.raises(error, match=words), failures_told():
                await learner.send(stub)
            await honest.send(stub)
            assert [receipt.header.work_id for receipt in parent.receipts] == [honest.ticket.work_id]

    play(story)


def test_a_forged_ticket_opens_nothing() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(2)
            learner = Learner(1, parent)
            forged = (seal(b"x" * 32, learner.ticket), b"", learner.sealed[:-1] + b"\1", KEY)
            for ticket in forged:
                request = leader_pb2.Empty(ticket=ticket, version=VERSION)
                with pytest.raises(ForbiddenError, match="not given out by the leader"), failures_told():
                    _ = [chunk async for chunk in stub.get_model(request)]
                status = leader_pb2.UploadRequest(ticket=ticket, work_id=learner.ticket.work_id)
                with pytest.raises(ForbiddenError, match="not given out by the leader"), failures_told():
                    await stub.get_upload(status)
                with pytest.raises(ForbiddenError, match="not given out by the leader"), failures_told():
                    await stub.accumulate(learner.held.messages(b"", 4096, ticket=ticket))
            with pytest.raises(PayloadError, match="for other work than its ticket"), failures_told():
                await upload_status(stub, learner, "2-0-" + "e" * 32)
            with pytest.raises(ForbiddenError, match="is for model version 77"), failures_told():
                await model(stub, learner, version=78)
            assert (parent.receipts, parent.models) == ([], [])

    play(story)


def test_whose_ticket_is_a_revoked_identitys_is_cut_off_also_while_the_leader_is_away() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent) as edge, stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            eve, ann = Learner(1, parent), Learner(2, parent)
            eve.ticket.identity, ann.ticket.identity = "eve", "ann"
            await upload_status(stub, ann)  # answered once the round is open there: before, no round is over
            parent.may_send.clear()
            downloads = [
                asyncio.ensure_future(model(stub, eve)),
                asyncio.ensure_future(half_an_update(stub, eve)),
            ]
            async with stub_of(parent.hub.addresses[0]) as hers:
                kept = asyncio.ensure_future(model(hers, ann))
                await model_is_late(hers, parent)
                await model_is_late(stub, parent)
                parent.hub.revoke(edge_pb2.Revoked(names=["eve"]))
                for call in downloads:
                    with pytest.raises(ForbiddenError, match="eve was revoked; ask the"), failures_told():
                        await call
                parent.may_send.set()
                assert await kept == MODEL
                await ann.send(hers)
            before = edge._link
            before._ended()  # type: ignore[union-attr]
            await parent.until(lambda: edge._link is not before and len(parent.hub.addresses) == 1)
            for late in (model(stub, eve), upload_status(stub, eve), eve.send(stub)):
                with pytest.raises(ForbiddenError, match="eve was revoked; ask the"), failures_told():
                    await late
            assert [receipt.header.work_id for receipt in parent.receipts] == [ann.ticket.work_id]

    play(story)


async def half_an_update(stub: LeaderStub, learner: Learner) -> leader_pb2.Ack:
    """An upload that never ends."""

    async def messages() -> AsyncIterator[bytes]:
        yield next(learner.messages())
        await asyncio.Event().wait()

    return await stub.accumulate(messages())


def test_an_update_of_the_next_exchange_waits_until_that_is_open_here() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            await upload_status(stub, Learner(2, parent))  # answered once the round is open there
            parent.round = 2
            learner = Learner(1, parent)
            sending = asyncio.ensure_future(learner.send(stub))
            await model_is_late(stub, parent)
            parent.open(2)
            await sending
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    play(story)


def test_an_update_whose_round_closes_while_it_comes_is_late_whatever_the_next_one_takes() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            slow, rest = Learner(1, parent), asyncio.Event()
            await upload_status(stub, slow)  # answered once the round is open there: before, no round is over
            sending = asyncio.ensure_future(send_in_two(stub, slow, rest))
            await model_is_late(stub, parent)
            narrow = scale_message(Scale.of(1024.0, 8))  # in which no update of its weight has room
            parent.round = 2
            parent.hub.open(edge_pb2.Open(round=2, scale=narrow), parent.sum.sum_bytes)
            await upload_status(stub, Learner(2, parent))  # answered once the round is open there
            rest.set()
            with pytest.raises(LateUpdateError, match="round 1, which is over"), failures_told():
                await sending
            assert parent.receipts == []

    play(story)


async def send_in_two(stub: LeaderStub, learner: Learner, rest: asyncio.Event) -> leader_pb2.Ack:
    """An upload whose second half waits."""

    async def messages() -> AsyncIterator[bytes]:
        first, *others = learner.messages()
        yield first
        await rest.wait()
        for message in others:
            yield message

    return await stub.accumulate(messages())


async def model_is_late(stub: LeaderStub, parent: Parent) -> None:
    """By when this is refused, what was sent before it has come."""
    old = Learner(9, parent)
    old.ticket.round = 0
    with pytest.raises(LateUpdateError, match="round 0, which is over"), failures_told():
        await model(stub, old)


def test_a_broken_upload_goes_on_where_it_broke() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            learner = Learner(1, parent)
            with pytest.raises(PayloadError), failures_told():
                await stub.accumulate(iter([*learner.messages(512)][:3]))
            received = (await upload_status(stub, learner)).received
            assert 0 < received <= 3 * 512
            await stub.accumulate(learner.held.messages(b"", 512, received, learner.sealed))
            assert parent.receipts[0].size == learner.held.said.total_bytes - received
            assert await parent.gather() == frozenset()
            assert parent.sum.finish().mean.tobytes() == mean_of(parent, learner)

    play(story)


def test_a_model_is_fetched_once_and_streams_through_to_all_that_ask() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            parent.open(1)
            parent.may_send.clear()
            learners = [Learner(number, parent) for number in range(3)]
            request = leader_pb2.Empty(ticket=learners[0].sealed, version=VERSION)
            stream = stub.get_model(request)
            begun = bytes(await anext(stream))
            assert 0 < len(begun) < len(MODEL)  # before the parent has sent the rest
            others = [asyncio.ensure_future(model(stub, learner)) for learner in learners[1:]]
            parent.may_send.set()
            assert begun + b"".join([bytes(chunk) async for chunk in stream]) == MODEL
            assert await asyncio.gather(*others) == [MODEL, MODEL]
            assert await model(stub, learners[0], have=5) == MODEL
            assert await model(stub, learners[1], have=5) == MODEL
            assert parent.models == [(VERSION, None), (VERSION, 5)]

    play(story)


def test_what_an_edge_does_not_do_is_unimplemented() -> None:
    async def story(parent: Parent) -> None:
        async with edge_of(parent), stub_of(parent.hub.addresses[0]) as stub:
            for call in (
                stub.register(leader_pb2.LearnerInfo()),
                stub.get_work(leader_pb2.WorkRequest()),
            ):
                with pytest.raises(aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    play(story)


def test_the_parents_stop_ends_it() -> None:
    async def story(parent: Parent) -> None:
        running = asyncio.ensure_future(App(EdgeOptions(leader=parent.address)).run())
        await parent.until(lambda: len(parent.hub.addresses) == 1)
        parent.hub.end("the run is over")
        await asyncio.wait_for(running, 60)
        assert parent.hub.addresses == ()

    play(story)
