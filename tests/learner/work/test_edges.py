"""A whole learner whose order may be done at edges: none of them ends its session or its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from grpc import aio

from protos import leader_pb2
from tests.learner.test_app import ORDER, Context, Leader, learn
from tests.tools.grpc_server import started
from tests.tools.ports import closed_address
from utils.errors import PayloadError

TICKET = b"the ticket"
OTHER = leader_pb2.WorkOrder()
OTHER.CopyFrom(ORDER)
OTHER.work_id, OTHER.version = "x" * 32, 10
NOT_READY = (grpc.StatusCode.UNAVAILABLE, "leader: no leader yet")


class Run(Leader):
    """A leader whose order names edges, those given, and where there is none."""

    def __init__(self, *edges: Leader | None, late: int = 0) -> None:
        """The first `late` updates are refused as too late, and their order comes again."""
        order = leader_pb2.WorkOrder()
        order.CopyFrom(ORDER)
        order.via.ticket = TICKET
        super().__init__("", [], order)
        self._edges = edges
        self._late = late
        self._orders: asyncio.Queue[leader_pb2.WorkOrder | None] = asyncio.Queue()  # None = all is done
        self.headers: list[leader_pb2.UpdateHeader] = []  # of all updates that came

    async def session(
        self, messages: AsyncIterator[leader_pb2.LearnerMessage], context: Context
    ) -> AsyncIterator[leader_pb2.LeaderMessage]:
        """See Leader."""
        async with AsyncExitStack() as stack:
            for edge in self._edges:
                there = await stack.enter_async_context(self._serving(edge)) if edge else closed_address()
                self.order.via.edges.append(there)
            self._orders.put_nowait(self.order)
            while (order := await self._orders.get()) is not None:
                yield leader_pb2.LeaderMessage(work=order)
            yield leader_pb2.LeaderMessage(stop=leader_pb2.Stop(reason="all done", finished=True))

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> AsyncIterator[bytes]:
        """See Leader; whoever asks for the other order's has done with the one before, which comes again."""
        if request.version == OTHER.version:
            self._orders.put_nowait(self.order)
            await context.abort(grpc.StatusCode.ABORTED, "leader: version 10 is gone")
        async for message in super().get_model(request, context):
            yield message

    async def accumulate(self, messages: AsyncIterator[bytes], context: Context) -> leader_pb2.Ack:
        """See Leader."""
        stream = aiter(messages)
        self.headers.append(leader_pb2.GradientData.FromString(await anext(stream)).header)
        async for _ in stream:
            pass
        if self._late:
            self._late -= 1
            self._orders.put_nowait(OTHER)
            await context.abort(grpc.StatusCode.ABORTED, "leader: the round has closed")
        self._orders.put_nowait(None)
        return leader_pb2.Ack(success=True)

    @asynccontextmanager
    async def _serving(self, edge: Leader) -> AsyncIterator[str]:
        server = aio.server()
        server.add_generic_rpc_handlers((edge.handler(),))
        async with started(server) as address:
            taken = asyncio.ensure_future(self._taken_at(edge))
            try:
                yield address
            finally:
                taken.cancel()

    async def _taken_at(self, edge: Leader) -> None:
        await edge.taken.wait()
        self._orders.put_nowait(None)


@pytest.fixture(autouse=True)
def _in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.wire.edges.ranked", lambda name, addresses: list(addresses))


def test_model_and_update_go_by_the_first_edge_that_works() -> None:
    edge = Leader("", [])
    leader = Run(None, edge, Leader("", []))
    learn(leader, dialled=False)
    assert leader.tokens == [b""]
    assert leader.pulled == leader.headers == []
    assert edge.pulled == [leader_pb2.Empty(ticket=TICKET, version=ORDER.version)]
    [update] = edge.updates
    assert (update.ticket, update.token, update.work_id) == (TICKET, b"", ORDER.work_id)


def test_without_an_edge_that_works_all_goes_by_the_leader_in_one_session() -> None:
    leader = Run(None, Leader("AccumulateGradients", [NOT_READY]), None)
    learn(leader, dialled=False)
    assert leader.tokens == [b""]
    [update] = leader.headers
    assert (update.token, update.ticket) == (b"token 1", b"")


def test_an_update_that_an_edge_may_have_counted_is_kept_though_it_is_late_elsewhere() -> None:
    leader = Run(Leader("AccumulateGradients", [NOT_READY] * 2), late=1)
    learn(leader, dialled=False)
    first, second = leader.headers
    assert first.seconds == second.seconds  # it was not made again
    assert leader.tokens == [b""]


def test_an_update_that_is_late_where_it_goes_first_is_made_again() -> None:
    leader = Run(late=1)
    learn(leader, dialled=False)
    first, second = leader.headers
    assert first.seconds != second.seconds


def test_an_order_with_edges_that_cannot_be_is_refused() -> None:
    order = leader_pb2.WorkOrder()
    order.CopyFrom(ORDER)
    order.via.edges.append("unix:/tmp/socket")
    with pytest.raises(PayloadError, match="the edge 'unix:/tmp/socket', which is no HOST:PORT"):
        learn(Leader("", [], order), dialled=False)
