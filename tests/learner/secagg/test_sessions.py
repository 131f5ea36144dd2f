"""A learner's part in sessions: orders that it must not do, messages in any order, and updates that wait for masks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from learner.secagg.member import Floors, Phase
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from protos import leader_pb2
from tests.secagg import SESSION, order, plan
from utils.errors import LateUpdateError, PayloadError

EXAMPLES = 24


def sessions(**options: Any) -> MaskSessions:
    made = MaskSessions(Vows(None), Floors(), EXAMPLES, **options)
    made.registered("a", "run")
    return made


def work(**said: Any) -> leader_pb2.WorkOrder:
    """An order for the learner called a."""
    return order("a", plan(4), **{"local_steps": 2, "batch_size": 8, **said})


def opened(work_id: str, session: bytes = SESSION) -> leader_pb2.MaskDown:
    return leader_pb2.MaskDown(session=session, open=leader_pb2.MaskOpen(work_id=work_id))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"shard": 3}, "of own data, and of training"),
        ({"exchange": "gradient"}, "of own data, and of training"),
        ({"local_steps": 0}, "of own data, and of training"),
    ],
)
def test_an_order_under_which_others_could_send_nothing_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        sessions().ordered(work(**said))


def test_in_passes_the_steps_are_those_of_its_own_examples() -> None:
    asked = work(local_steps=6)
    asked.masking.epochs = 2
    assert sessions().ordered(asked) is None
    asked.local_steps = 1
    with pytest.raises(PayloadError, match="1 steps are not 2 passes through this learner's 24 examples"):
        sessions().ordered(asked)


def test_passes_are_through_the_examples_that_the_run_trains_on() -> None:
    asked = work(local_steps=2)  # of batches of 8
    asked.masking.epochs = 1
    learner = sessions()
    learner.registered("a", "run", 0.4)
    assert learner.ordered(asked) is None
    asked.local_steps = 3
    with pytest.raises(PayloadError, match="3 steps are not 1 passes through this learner's 15 examples"):
        learner.ordered(asked)


def test_a_share_of_noise_without_masks_and_one_that_hides_nothing_are_refused() -> None:
    plain = work(noise=leader_pb2.NoisePlan(clip=1.0, reach=50_000, spread=[32]))
    assert sessions().ordered(plain) is None
    plain.ClearField("masking")
    with pytest.raises(PayloadError, match="hides nothing of an update that comes without masks"):
        sessions().ordered(plain)
    with pytest.raises(PayloadError, match="clipped to 0"):
        sessions().ordered(work(noise=leader_pb2.NoisePlan(reach=50_000)))


def test_who_requires_masks_does_no_work_without_them() -> None:
    plain = work()
    plain.ClearField("masking")
    assert sessions().ordered(plain) is None
    with pytest.raises(PayloadError, match=r"masks all \(--secagg require\)"):
        sessions(required=True).ordered(plain)
    signed = MaskSessions(Vows(None), Floors(signed=True), EXAMPLES, required=True)
    with pytest.raises(PayloadError, match=r"masks all \(--secagg signed\)"):
        signed.ordered(plain)


@pytest.mark.parametrize("order_first", [True, False])
def test_keys_are_sent_once_order_and_session_are_here(order_first: bool) -> None:
    mine, asked = sessions(), work()
    said = [mine.ordered(asked), mine.heard(opened(asked.work_id))]
    if not order_first:
        mine = sessions()
        said = [mine.heard(opened(asked.work_id)), mine.ordered(asked)]
    assert said[0] is None
    assert said[1] is not None
    assert said[1].HasField("advert")
    again = mine.heard(opened(asked.work_id))
    assert again == said[1]
    other = mine.heard(opened(asked.work_id, b"another session!"))
    assert other is not None
    assert other.advert.mask_key != said[1].advert.mask_key


def test_a_message_of_no_session_of_its_own_is_refused_in_words() -> None:
    answer = sessions().heard(leader_pb2.MaskDown(session=SESSION, roster=leader_pb2.Roster()))
    assert answer is not None
    assert answer.refused.reason == "this learner is in no such session"


def test_a_plan_below_its_floor_is_refused_in_words() -> None:
    mine, asked = sessions(), work()
    asked.masking.least = 2
    with pytest.raises(PayloadError, match=r"^sums of 2 updates are planned, this learner asks for 3"):
        mine.ordered(asked)
    assert mine.heard(opened(asked.work_id)) is None


def test_an_update_waits_for_its_masks_until_its_round_is_over() -> None:
    async def scenario() -> None:
        mine, asked = sessions(), work()
        waiting = asyncio.ensure_future(_waits(mine, asked))
        await asyncio.sleep(0)
        mine.heard(opened(asked.work_id))
        await asyncio.sleep(0)
        assert not waiting.done()
        mine.committed(3)
        with pytest.raises(LateUpdateError, match="the round is over"):
            await waiting

    asyncio.run(scenario())


def test_an_update_that_was_refused_is_sent_again_where_another_session_is_opened_for_it() -> None:
    async def scenario() -> None:
        mine, asked = sessions(), work()
        assert not await mine.again(asked.work_id, b"")  # work without masks
        mine.ordered(asked)
        mine.heard(opened(asked.work_id))
        waiting = asyncio.ensure_future(mine.again(asked.work_id, SESSION))
        await asyncio.sleep(0)
        assert not waiting.done()
        another = opened(asked.work_id)
        another.session = bytes(len(SESSION))
        mine.heard(another)
        assert await waiting
        waiting = asyncio.ensure_future(mine.again(asked.work_id, another.session))
        await asyncio.sleep(0)
        mine.committed(3)
        assert not await waiting

    asyncio.run(scenario())


async def _waits(mine: MaskSessions, asked: leader_pb2.WorkOrder) -> Phase:
    mine.ordered(asked)
    return (await mine.ready(asked.work_id)).phase


def test_a_newer_order_ends_the_wait_for_an_older_one() -> None:
    async def scenario() -> None:
        mine, asked = sessions(), work()
        waiting = asyncio.ensure_future(_waits(mine, asked))
        await asyncio.sleep(0)
        mine.ordered(work(work_id="4-0-a", round=4))
        with pytest.raises(LateUpdateError):
            await waiting

    asyncio.run(scenario())
