from __future__ import annotations

import asyncio
import random

import pytest

from leader.rpc.byte_budget import ByteBudget


def inside(*holders: Holder) -> list[bool]:
    return [holder.inside for holder in holders]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Holder:
    """A task that holds `size` bytes until it is let go."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self.size = size
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold(budget))

    async def _hold(self, budget: ByteBudget) -> None:
        async with budget.hold(self.size):
            self.inside = True
            try:
                await self.leave.wait()
            finally:
                self.inside = False

    async def end(self) -> None:
        self.leave.set()
        await self.task


def test_bytes_are_given_out_first_come_first_served() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        first, large, small = (Holder(budget, size) for size in (6, 8, 2))
        await settle()
        # The small one would fit, but must not overtake the large one for ever.
        assert inside(first, large, small) == [True, False, False]
        assert budget.waited_for
        assert not budget.fits(1)
        await first.end()
        await settle()
        assert inside(large, small) == [True, True]
        assert budget.fits(0)
        await large.end()
        await small.end()
        assert budget.fits(10)

    asyncio.run(scenario())


def test_a_request_larger_than_the_budget_is_let_in_alone() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        one, huge, other = (Holder(budget, size) for size in (1, 100, 1))
        await settle()
        assert inside(one, huge, other) == [True, False, False]
        await one.end()
        await settle()
        assert inside(huge, other) == [True, False]
        await huge.end()
        await settle()
        assert other.inside
        await other.end()

    asyncio.run(scenario())


def test_what_fits_is_let_in_at_once() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        assert budget.fits(11)  # alone
        holder = Holder(budget, 6)
        await settle()
        assert budget.fits(4)
        assert not budget.fits(5)
        await holder.end()

    asyncio.run(scenario())


def test_a_holder_that_fails_gives_its_bytes_back() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        with pytest.raises(KeyError):
            async with budget.hold(10):
                raise KeyError
        assert budget.fits(10)

    asyncio.run(scenario())


@pytest.mark.parametrize("release_first", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_gives_up_waiting_lets_the_next_one_in(release_first: bool, at_once: bool) -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        first, waiting, last = (Holder(budget, size) for size in (10, 10, 10))
        await settle()
        for release in (release_first, not release_first):
            if release:
                first.leave.set()
            else:
                waiting.task.cancel()
            if not at_once:
                await settle()
        with pytest.raises(asyncio.CancelledError):
            await waiting.task
        await first.task
        await settle()
        assert last.inside
        await last.end()
        assert budget.fits(10)

    asyncio.run(scenario())


def test_giving_up_in_the_moment_of_a_release_is_a_plain_cancellation() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)
        async with budget.hold(10):
            waiting = Holder(budget, 10)
            await settle()
            waiting.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting.task
        assert budget.fits(10)
        assert not budget.waited_for

    asyncio.run(scenario())


def test_random_arrivals_and_cancellations_never_overdraw_and_leave_nothing_behind() -> None:
    async def scenario(seed: int) -> None:
        draw, budget, total = random.Random(seed), ByteBudget(10), 10
        holders: list[Holder] = []
        for _ in range(80):
            choice = draw.random()
            if choice < 0.5 or not holders:
                holders.append(Holder(budget, draw.randint(1, 12)))
            elif choice < 0.75:
                draw.choice(holders).leave.set()
            else:
                draw.choice(holders).task.cancel()
            for _ in range(draw.randint(0, 3)):
                await asyncio.sleep(0)
            held = [holder.size for holder in holders if holder.inside]
            assert sum(held) <= total or len(held) == 1
        for holder in holders:
            holder.leave.set()
        ends = await asyncio.gather(*(holder.task for holder in holders), return_exceptions=True)
        assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
        assert budget.fits(10)
        assert not budget.waited_for

    for seed in range(60):
        asyncio.run(scenario(seed))
