"""Every update counts at most once, and only from a learner that the leader knows."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.events import CallRefused, LearnerJoined, LearnerLeft, RoundStarted, UpdateAccepted
from learner.wire.connection import Endpoint
from learner.wire.transfer import push
from learner.wire.whole_update import HeldUpdate, WholeUpdate
from learner.work.worker import Worker
from protos import leader_pb2, leader_pb2_grpc
from scripts.cluster import Cluster
from tests.clusters import TIMEOUT_S, TINY, Settings, join, leaves, play, train
from utils.errors import LateUpdateError, NameTakenError, UnreachableError, WireError

FORGED = b"sixteen made up."


class Resending(Worker):
    """Sends the update before, then its own, then its own again."""

    answers: list[tuple[str, int, WireError]]  # what was sent again, in which round, and its refusal
    told: asyncio.Event  # the update of round 2 was sent again
    _before: HeldUpdate | None = None

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if self._before is not None:
            await self._send_again("before", held.round, self._before)
        await super()._send(to, held, resume=resume)
        self._before = held
        await self._send_again("counted", held.round, held)
        if held.round == 2:
            self.told.set()

    async def _send_again(self, what: str, round_: int, held: HeldUpdate) -> None:
        connection = self._connected()
        with pytest.raises(WireError) as refusal:
            await push(connection.leader, held, connection.run.chunk_bytes)
        self.answers.append((what, round_, refusal.value))


class Holding(Worker):
    """Keeps its update of round 2 back until it may go."""

    held: asyncio.Event  # it is made
    may_go: asyncio.Event

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if held.round == 2:
            self.held.set()
            await self.may_go.wait()
        await super()._send(to, held, resume=resume)


class Refused(Worker):
    """Is told that its update of round 2 came too late, as by a leader that ends."""

    refused: asyncio.Event

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if held.round == 2 and not self.refused.is_set():
            self.refused.set()
            raise LateUpdateError("the run is over")
        await super()._send(to, held, resume=resume)


def test_an_update_that_a_leader_refused_in_its_end_is_made_again_for_the_one_that_goes_on() -> None:
    settings = {**TINY, "rounds": 4, "codec.up": "int8", "model.local": "norm.*"}  # parts remember something

    async def scenario(cluster: Cluster) -> None:
        refused = asyncio.Event()
        join(cluster, "a", worker=type("Refused", (Refused,), {"refused": refused}))
        join(cluster, "b")
        await asyncio.wait_for(refused.wait(), TIMEOUT_S)
        await cluster.resume()
        await cluster.finished()

    assert play(scenario, settings).model_sha256 == play(train, settings).model_sha256


class Lost(Worker):
    """Its machine is lost in round 2: before its update is made, or when that is about to be sent."""

    there: asyncio.Event
    made: bool

    async def _make(self, order: leader_pb2.WorkOrder, part: str) -> WholeUpdate:
        made = await super()._make(order, part) if self.made or order.round != 2 else None
        if made is None or order.round == 2:
            self.there.set()
            await asyncio.Event().wait()
        assert made is not None
        return made


class Waiting(Worker):
    """Keeps its update of round 3 back until it may go."""

    may_go: asyncio.Event

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if held.round == 3:
            await self.may_go.wait()
        await super()._send(to, held, resume=resume)


@pytest.mark.parametrize(
    "remembering",
    [
        {"codec.up": "topk"},
        {"train.control_variates": True, "train.momentum": 0, "train.nesterov": False},
        {"model.local": "norm.*"},
    ],
)
def test_what_a_learner_staged_with_an_update_that_was_never_sent_is_void(
    tmp_path: Path, remembering: Settings
) -> None:
    """The round has closed without it, so that nobody has told it that it was refused."""
    settings = {**TINY, **remembering, "rounds": 5, "cohort.quorum": 0.5}

    def bits(*, made: bool) -> str:
        async def scenario(cluster: Cluster) -> None:
            there, may_go = asyncio.Event(), asyncio.Event()
            join(cluster, "a", worker=type("Waiting", (Waiting,), {"may_go": may_go}))
            state = {"state_dir": tmp_path / f"{made}"}
            lost = join(cluster, "b", worker=type("Lost", (Lost,), {"there": there, "made": made}), **state)
            await asyncio.wait_for(there.wait(), TIMEOUT_S)
            await lost.kill()
            leaves(cluster, "b")
            await cluster.committed(2)
            await cluster.event(RoundStarted, round=3)
            join(cluster, "b", **state)
            await cluster.until(lambda: len(cluster.seen(LearnerJoined)) == 3, "b has not come back")
            may_go.set()
            await cluster.finished()
            assert [line["learners"] for line in cluster.metrics] == [2, 1, 1, 2, 2]

        return play(scenario, settings).model_sha256

    assert bits(made=True) == bits(made=False)


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("more", [{}, {"buffer.size": 2}])
def test_a_learner_that_comes_back_with_more_data_gets_work_on_that_and_not_on_what_it_had(
    more: Settings,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        there, may_go = asyncio.Event(), asyncio.Event()
        join(cluster, "a", worker=type("Waiting", (Waiting,), {"may_go": may_go}))
        lost = join(cluster, "b", worker=type("Lost", (Lost,), {"there": there, "made": False}))
        await asyncio.wait_for(there.wait(), TIMEOUT_S)
        await lost.kill()
        before = len(cluster.events)
        join(cluster, "b", task="tests.integration.noise_task:MoreNoise")
        await cluster.event(UpdateAccepted, examples=48)
        may_go.set()
        await cluster.finished()
        came = [event for event in cluster.events[before:] if isinstance(event, UpdateAccepted)]
        assert {event.examples for event in came if event.part == "own-b"} == {48}

    play(scenario, {**TINY, **more, "cohort.quorum": 0.5})


def test_an_update_that_is_sent_too_often_counts_once() -> None:
    answers: list[tuple[str, int, WireError]] = []

    async def scenario(cluster: Cluster) -> None:
        told = asyncio.Event()
        resending = type("Resending", (Resending,), {"answers": answers, "told": told})
        holding = type("Holding", (Holding,), {"held": asyncio.Event(), "may_go": told})
        join(cluster, "b", worker=resending)
        join(cluster, "a", worker=holding)
        await cluster.finished()

    cluster = play(scenario)
    refused = {(what, round_): error for what, round_, error in answers}
    # The round is open as long as the other one holds its update back.
    assert type(refused["counted", 2]).__name__ == "DuplicateUpdateError"
    assert re.fullmatch(
        r"update for own-[\w-]+ is already counted in round 2, step 0", str(refused["counted", 2])
    )
    late = {round_: error for (what, round_), error in refused.items() if what == "before"}
    assert {round_: (type(error).__name__, str(error)) for round_, error in late.items()} == {
        round_: (
            "LateUpdateError",
            f"work of round {round_ - 1}, step 0 is no longer open (round {round_}, step 0 is); wait for new work",
        )
        for round_ in (2, 3)
    }
    assert {type(error).__name__ for error in refused.values()} == {"DuplicateUpdateError", "LateUpdateError"}
    counted = Counter(event.round for event in cluster.seen(UpdateAccepted))
    assert counted == dict.fromkeys(range(1, 4), 2)
    assert cluster.model_sha256 == play(train).model_sha256


def test_of_two_learners_with_one_name_the_second_waits_until_the_first_is_dead() -> None:
    async def scenario(cluster: Cluster) -> None:
        held = asyncio.Event()
        holding = type("Holding", (Holding,), {"held": held, "may_go": asyncio.Event()})
        join(cluster, "a")
        first = join(cluster, "b", worker=holding)
        await asyncio.wait_for(held.wait(), TIMEOUT_S)
        join(cluster, "b")
        await cluster.event(CallRefused, kind=NameTakenError.__name__)
        await first.kill()
        await cluster.finished()

    cluster = play(scenario, {**TINY, "cohort.lease_s": 8})
    assert len({event.learner_id for event in cluster.seen(UpdateAccepted)}) == 2
    assert cluster.seen(LearnerLeft) == []
    assert cluster.model_sha256 == play(train).model_sha256


def test_a_second_learner_of_one_name_is_told_why_it_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in ("twin", "other"):
            join(cluster, name)
        await cluster.committed(1)
        error = await cluster.failed(join(cluster, "twin", connect_timeout_s=0.3))
        assert isinstance(error, UnreachableError)
        assert "a learner named 'twin' is connected already" in str(error)

    play(scenario, {**TINY, "rounds": 1000})


Stub = leader_pb2_grpc.LeaderServiceStub
Header = leader_pb2.UpdateHeader
CALLS: dict[str, Callable[[Stub], Awaitable[Any]]] = {
    "AccumulateGradients": lambda stub: stub.AccumulateGradients(
        iter([leader_pb2.GradientData(header=Header(token=FORGED, work_id="w"))]), timeout=TIMEOUT_S
    ),
    "GetData": lambda stub: stub.GetData(
        leader_pb2.LearnerDataRequest(token=FORGED, shard=0), timeout=TIMEOUT_S
    ).read(),
    "GetUpload": lambda stub: stub.GetUpload(leader_pb2.UploadRequest(token=FORGED), timeout=TIMEOUT_S),
    "GetWork": lambda stub: stub.GetWork(leader_pb2.WorkRequest(token=FORGED), timeout=TIMEOUT_S),
    "Session": lambda stub: stub.Session(
        iter([leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=FORGED))]), timeout=TIMEOUT_S
    ).read(),
}


def test_a_forged_token_opens_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        for method, call in CALLS.items():
            async with aio.insecure_channel(cluster.address) as channel:
                with pytest.raises(aio.AioRpcError) as refusal:
                    await call(Stub(channel))
            assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert refusal.value.details() == "leader: unknown session token; register again"
            await cluster.event(CallRefused, method=method, kind="UnknownLearnerError", learner_id=None)

    play(scenario, TINY)
