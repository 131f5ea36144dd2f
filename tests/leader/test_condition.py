from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from leader.condition import Signal


def test_a_condition_that_holds_is_not_waited_for() -> None:
    async def scenario() -> bool:
        return await Signal().wait_until(lambda: True, timeout_s=0)

    assert asyncio.run(scenario())


def test_every_waiter_looks_again_at_each_notice_and_only_then() -> None:
    async def scenario() -> None:
        signal, looks, limit = Signal(), [0, 0], [0]

        def looking(waiter: int) -> bool:
            looks[waiter] += 1
            return limit[0] > waiter

        waiters = [asyncio.ensure_future(signal.wait_until(partial(looking, waiter))) for waiter in range(2)]
        await asyncio.sleep(0)
        assert looks == [1, 1]
        for value, expected in ((0, [2, 2]), (1, [3, 3]), (2, [3, 4])):
            limit[0] = value
            signal.notify()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert looks == expected
        assert await asyncio.gather(*waiters) == [True, True]

    asyncio.run(scenario())


def test_the_wait_ends_at_its_timeout_and_says_so() -> None:
    async def scenario() -> bool:
        return await Signal().wait_until(lambda: False, timeout_s=0.02)

    began = time.monotonic()
    assert not asyncio.run(scenario())
    assert time.monotonic() - began >= 0.02


def test_a_condition_that_came_true_without_notice_is_seen_at_the_timeout() -> None:
    async def scenario() -> bool:
        answers = iter([False, True])
        return await Signal().wait_until(lambda: next(answers), timeout_s=0.001)

    assert asyncio.run(scenario())


def test_a_waiter_that_is_cancelled_does_not_disturb_the_others() -> None:
    async def scenario() -> None:
        signal, ready = Signal(), [False]
        gone, stays = (asyncio.ensure_future(signal.wait_until(lambda: ready[0])) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        ready[0] = True
        signal.notify()
        assert await stays
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())
