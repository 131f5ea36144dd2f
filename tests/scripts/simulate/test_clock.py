"""Virtual time stands still, tells when the coordinator waits, and ends a wait at its deadline."""

from __future__ import annotations

import asyncio

import pytest

from scripts.simulate.clock import VirtualClock


def test_a_wait_ends_when_its_deadline_is_reached_and_not_before() -> None:
    async def story() -> tuple[bool, float]:
        clock, queue = VirtualClock(), asyncio.Queue[int]()

        async def wait() -> int:
            async with clock.until(5.0):
                return await queue.get()

        waiting = asyncio.ensure_future(wait())
        await clock.changed.wait_until(lambda: clock.awaited)
        clock.advance(4.0)
        await asyncio.sleep(0)
        still = not waiting.done()
        clock.expire()
        with pytest.raises(TimeoutError):
            await waiting
        return still, clock.now()

    assert asyncio.run(story()) == (True, 5.0)


def test_a_deadline_that_has_passed_ends_a_wait_at_once() -> None:
    async def story() -> None:
        clock = VirtualClock()
        clock.advance(3.0)
        async with clock.until(2.0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(story())


def test_it_is_awaited_only_inside_a_wait_and_never_goes_back() -> None:
    async def story() -> list[bool]:
        clock = VirtualClock()
        seen = [clock.awaited]
        async with clock.until(None):
            seen.append(clock.awaited)
        clock.advance(2.0)
        clock.advance(1.0)
        assert clock.now() == 2.0
        return [*seen, clock.awaited]

    assert asyncio.run(story()) == [False, True, False]
