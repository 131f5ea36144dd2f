"""The two ways to push to a learner: its own session, and a call to the address that it gave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc

from leader.condition import Signal
from leader.learners.links import DialledLink, SessionLink, dial_in_plain
from leader.trust.audit.chain import Head
from leader.trust.identities.callers import anonymous
from protos import leader_pb2, learner_pb2
from tests.tools.grpc_server import started
from utils.errors import WireError
from utils.wire import contract

ORDER = leader_pb2.WorkOrder(work_id="w1")


def messages_of(link: SessionLink) -> list[str | None]:
    async def scenario() -> list[str | None]:
        kinds = []
        while (message := await link.next()) is not None:
            kinds.append(message.WhichOneof("kind"))
        return kinds

    return asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_session_sends_what_was_pushed_in_order_and_nothing_after_the_stop() -> None:
    link = SessionLink()
    link.work(ORDER)
    link.committed(1, 2)
    link.stop("done", finished=True)
    link.work(ORDER)
    assert messages_of(link) == ["work", "committed", "stop"]


def test_a_commit_takes_along_the_head_of_the_audit_where_there_is_one() -> None:
    heads = iter([(7, b"seven"), (9, b"nine")])
    plain, secure = SessionLink(), SessionLink(lambda: Head(*next(heads)))
    for link in (plain, secure, secure):
        link.committed(3, 5)
    told = [asyncio.run(link.next()) for link in (plain, secure, secure)]
    assert [message.committed for message in told if message] == [
        leader_pb2.Committed(round=3),
        leader_pb2.Committed(round=3, audit_number=7, audit_head=b"seven"),
        leader_pb2.Committed(round=3, audit_number=9, audit_head=b"nine"),
    ]


def test_a_session_whose_learner_reads_nothing_ends_before_it_fills_the_memory() -> None:
    link = SessionLink()
    for _ in range(5000):
        link.work(ORDER)
    assert len(messages_of(link)) == 1000


class Learner:
    """A learner that the leader dials: it notes each call and answers when it is let go."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.called = Signal()
        self.free = asyncio.Event()
        self.free.set()

    async def answer(self, request: Any, context: object) -> learner_pb2.Ack:
        self.calls.append(request)
        self.called.notify()
        await self.free.wait()
        return learner_pb2.Ack(success=True)

    async def came(self, count: int) -> list[Any]:
        assert await self.called.wait_until(lambda: len(self.calls) >= count, timeout_s=20)
        return self.calls

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async def refuse(method: str, context: object, error: WireError) -> None:
            raise AssertionError(f"{method}: {error}")

        methods = (contract.START_TRAINING, contract.SYNC_MODEL_STATE, contract.STOP_TRAINING)
        server = aio.server()
        server.add_generic_rpc_handlers((contract.serve(dict.fromkeys(methods, self.answer), refuse),))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        async with started(server) as address:
            try:
                yield address
            finally:
                self.free.set()


class Dialled:
    """A link to a learner, and what it told of it."""

    def __init__(self, address: str, heartbeat_s: float | None = None) -> None:
        self.seen = 0
        self.lost: list[str] = []
        self.told = Signal()
        self.link = DialledLink(
            dial_in_plain(address, anonymous("")),
            work_timeout_s=20,
            heartbeat_s=heartbeat_s,
            seen=self._see,
            lost=self._lose,
        )

    def _see(self) -> None:
        self.seen += 1
        self.told.notify()

    def _lose(self, reason: str) -> None:
        self.lost.append(reason)
        self.told.notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        assert await self.told.wait_until(condition, timeout_s=20)


def test_a_dialled_learner_is_called_for_work_commits_and_the_stop() -> None:
    async def scenario() -> None:
        learner = Learner()
        async with learner.listening() as address:
            dialled = Dialled(address)
            dialled.link.work(ORDER)
            await learner.came(1)
            dialled.link.committed(3, 7)
            await learner.came(2)
            dialled.link.stop("done", finished=True)
            assert await learner.came(3) == [
                learner_pb2.Empty(),
                learner_pb2.ModelState(version=7, committed_round=3),
                learner_pb2.StopNotice(reason="done", finished=True),
            ]
            await dialled.until(lambda: dialled.seen == 3)
            await dialled.link.close()

    asyncio.run(scenario())


def test_orders_that_come_during_a_call_share_the_next_one() -> None:
    async def scenario() -> None:
        learner = Learner()
        learner.free.clear()
        async with learner.listening() as address:
            dialled = Dialled(address)
            dialled.link.work(ORDER)
            await learner.came(1)
            for _ in range(3):
                dialled.link.work(ORDER)
            learner.free.set()
            await dialled.until(lambda: dialled.seen == 2)
            await dialled.link.close()
            assert len(learner.calls) == 2

    asyncio.run(scenario())


def test_a_learner_that_was_reached_once_and_is_not_any_more_is_lost() -> None:
    async def scenario() -> None:
        learner = Learner()
        async with learner.listening() as address:
            dialled = Dialled(address)
            dialled.link.work(ORDER)
            await dialled.until(lambda: dialled.seen == 1)
        dialled.link.work(ORDER)
        await dialled.until(lambda: bool(dialled.lost))
        assert dialled.lost[0].startswith("UNAVAILABLE: ")
        await dialled.link.close()

    asyncio.run(scenario())


def test_a_learner_that_was_never_reached_is_not_lost() -> None:
    async def scenario() -> None:
        async with Learner().listening() as address:
            pass  # nobody listens there any more
        dialled = Dialled(address)
        dialled.link.work(ORDER)
        await dialled.link.close()  # which waits for the call
        assert (dialled.seen, dialled.lost) == (0, [])

    asyncio.run(scenario())


def test_a_learner_with_heartbeats_is_asked_for_its_health() -> None:
    async def scenario() -> None:
        async with Learner().listening() as address:
            dialled = Dialled(address, heartbeat_s=0.1)  # in which it is to answer, too
            await dialled.until(lambda: dialled.seen >= 2)
            await dialled.link.close()

    asyncio.run(scenario())
