from __future__ import annotations

import asyncio
from typing import cast

import pytest

from leader.learners.membership import Member
from leader.rounds.protocol import Outdated
from leader.training.inbox import Inbox, LearnersChanged, Submission, Upload
from utils.errors import LateUpdateError

NOBODY, NOTHING = cast(Member, None), cast(Upload, None)  # handed on, never looked at


def submit(inbox: Inbox, work_id: str) -> asyncio.Task[None]:
    return asyncio.ensure_future(inbox.submit(NOBODY, NOTHING, work_id, None))


def test_events_come_in_order_and_wake_ups_together_count_once() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        inbox.wake()
        inbox.outdated(Outdated("part", 3))
        inbox.wake()
        assert isinstance(await inbox.next(), LearnersChanged)
        inbox.wake()
        assert await inbox.next() == Outdated("part", 3)
        assert isinstance(await inbox.next(), LearnersChanged)
        inbox.refuse("empty by now")
        waiting = asyncio.ensure_future(inbox.next())
        inbox.outdated(Outdated("other", 0))
        assert await waiting == Outdated("other", 0)

    asyncio.run(scenario())


def test_an_update_hears_its_fate() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        update = submit(inbox, "w")
        event = await inbox.next()
        assert isinstance(event, Submission)
        assert event.work_id == "w"
        event.fate.set_result(None)
        await update

    asyncio.run(scenario())


def test_what_is_left_is_refused_and_the_inbox_goes_on() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        first, second = submit(inbox, "1"), submit(inbox, "2")
        await asyncio.sleep(0)  # both are in
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        inbox.wake()
        inbox.refuse("the run is over")
        with pytest.raises(LateUpdateError, match="the run is over"):
            await second
        inbox.wake()
        assert isinstance(await inbox.next(), LearnersChanged)

    asyncio.run(scenario())
