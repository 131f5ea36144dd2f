"""Who does nothing gets no work while others are here: silence, made-up failures and idle places end no run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from grpc import aio

from leader.events import (
    LearnerJoined,
    LearnerLeft,
    LearnerOverdue,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
)
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.attacks.claims import answer_at_once
from tests.attacks.kinds import held_by, play_kind, with_and_without_trust
from tests.attacks.silence import beating, give_up, register_and_be_silent, take_and_give_up
from tests.clusters import IMAGES, SHARDS, TINY, Settings, join, play
from tests.strangers import Stranger, at_work, update_of
from utils.trust.credentials import Credentials

RUN: Settings = {**SHARDS, "rounds": 4}
NOBODY: Mapping[str, Credentials | None] = {}


async def work(cluster: Cluster, name: str, held: Credentials | None = None) -> None:
    """Answer each order with an update that depends on its shard alone, until the run is over."""
    async with Stranger(cluster.address, held) as learner:
        await learner.register(name)
        await learner.open_session()
        with suppress(AssertionError):  # the session has ended
            while True:
                order = await learner.work()
                await learner.send(update_of(cluster.app.layout, 1e-3 * (order.shard + 1)), order.work_id)


async def honest(cluster: Cluster, held: Mapping[str, Credentials | None] = NOBODY) -> None:
    """The whole run by two learners that do their work."""
    await asyncio.gather(*(work(cluster, name, held.get(name)) for name in "ab"))
    await cluster.finished()


def undisturbed() -> str:
    return play(honest, RUN, data=IMAGES).model_sha256


def test_places_of_plain_learners_that_never_call_are_free_again_after_a_lease() -> None:
    async def scenario(cluster: Cluster) -> None:
        await register_and_be_silent(cluster.address, 12)
        async with Stranger(cluster.address) as late:
            with pytest.raises(aio.AioRpcError, match=r"limits\.max_learners"):
                await late.register("late")
            await cluster.until(lambda: len(cluster.seen(LearnerLeft)) == 12, "nobody left")
            assert {event.reason for event in cluster.seen(LearnerLeft)} == {"no sign of life for 1 s"}
            await late.register("late")

    play(scenario, {**RUN, "learners": 20, "limits.max_learners": 12, "cohort.lease_s": 1}, data=IMAGES)


def test_a_plain_learner_that_was_only_slow_to_call_has_its_place_again() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with Stranger(cluster.address) as slow:
            await slow.register(network_addr="slow", control=leader_pb2.CONTROL_PLAIN, protocol=0)
            [joined] = cluster.seen(LearnerJoined)
            await cluster.event(LearnerLeft, learner_id=joined.learner_id)
            other = asyncio.create_task(work(cluster, "b"))
            request = leader_pb2.LearnerDataRequest(network_addr="slow")
            assert [chunk async for chunk in slow.stub.GetData(request)]
            assert cluster.seen(LearnerJoined, learner_id=joined.learner_id) == [joined, joined]
            await slow.send(update_of(cluster.app.layout, 0.0))
            await cluster.committed(1)
            other.cancel()

    play(scenario, {**RUN, "cohort.lease_s": 0.5}, data=IMAGES)


@pytest.mark.parametrize("control", [leader_pb2.CONTROL_PLAIN, leader_pb2.CONTROL_SESSION])
def test_forty_silent_registrations_before_the_first_round_cost_one_deadline(control: int) -> None:
    async def attacked(cluster: Cluster) -> None:
        await register_and_be_silent(cluster.address, 25, control=control)
        await register_and_be_silent(cluster.address, 15, control=control)
        await cluster.event(RoundStarted)
        await honest(cluster)

    cluster = play(attacked, {**RUN, "cohort.deadline_s": 1}, data=IMAGES)
    came = max(
        cluster.events.index(event) for name in "ab" for event in cluster.seen(LearnerJoined, name=name)
    )
    assert sum(isinstance(event, RoundAbandoned) for event in cluster.events[came:]) <= 1
    assert cluster.model_sha256 == undisturbed()


@with_and_without_trust
def test_the_shard_of_a_learner_that_never_sends_moves_after_the_first_deadline(
    tmp_path: Path, kind: str
) -> None:
    async def attacked(cluster: Cluster) -> None:
        held = {name: held_by(name, kind, tmp_path) for name in ("eve", "a", "b")}
        async with beating(cluster.address, "eve", held["eve"]):
            await honest(cluster, held)

    settings = {**RUN, "learners": 3, "data.shards": 2, "cohort.deadline_s": 1}
    cluster = play_kind(kind, tmp_path, attacked, settings, data=IMAGES)
    assert len(cluster.seen(RoundAbandoned)) == 1
    [overdue] = cluster.seen(LearnerOverdue)
    assert overdue.name == "eve"
    assert 1.5 < overdue.behind_s <= 2.0
    assert set(overdue.moved.values()) <= {"a", "b"}
    assert len(overdue.moved) == 1
    assert cluster.model_sha256 == undisturbed()


@pytest.mark.parametrize(
    "kind",
    [{}, {"exchange": "gradient"}, {"exchange": "gradient", "train.pipeline": False}, {"buffer.size": 3}],
)
def test_own_data_of_a_learner_that_never_sends_is_passed_over(kind: Settings) -> None:
    async def attacked(cluster: Cluster) -> None:
        async with Stranger(cluster.address) as eve:
            own = leader_pb2.OwnData(examples=24, fingerprint="ff")
            await eve.register("eve", own_data=own)
            await eve.open_session()
            for name in "ab":
                join(cluster, name)
            await cluster.finished()

    settings = {**TINY, "learners": 3, "cohort.deadline_s": 1, **kind}
    cluster = play(attacked, settings)
    assert len(cluster.seen(RoundAbandoned)) <= 1
    assert [event.round for event in cluster.seen(RoundCommitted)] == [1, 2, 3]


@with_and_without_trust
def test_two_learners_of_five_that_can_not_do_it_end_no_run_though_their_work_has_counted(
    tmp_path: Path, kind: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            x, y, *others = [
                await stack.enter_async_context(at_work(cluster.address, name, held_by(name, kind, tmp_path)))
                for name in ("x", "y", "a", "b", "c")
            ]
            file = update_of(cluster.app.layout, 0.0)
            for learner in (x, y, *others):
                await learner.send(file, (await learner.work()).work_id)
            await cluster.committed(1)
            lost = await x.work()
            await y.work()
            await give_up(x, lost)
            assert await y.work() == lost
            heirs = [asyncio.create_task(answer_at_once(learner, file)) for learner in others]
            await give_up(y, lost)
            await cluster.committed(4)
            for heir in heirs:
                heir.cancel()

    play_kind(kind, tmp_path, scenario, {**RUN, "learners": 5}, data=IMAGES)


def test_made_up_learners_that_all_give_up_end_no_run_that_others_come_to() -> None:
    async def attacked(cluster: Cluster) -> None:
        await asyncio.gather(*(take_and_give_up(cluster.address, name) for name in "xy"))
        await honest(cluster)

    cluster = play(attacked, RUN, data=IMAGES)
    assert cluster.seen(RoundAbandoned, reason="no learner is left")
    assert cluster.model_sha256 == undisturbed()
