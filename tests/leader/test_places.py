from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leader.places import Place, Places
from utils.errors import BusyError, StalledError

SLOW = 1000.0  # bytes a second


def inside(*holders: Holder) -> list[bool]:
    return [holder.inside for holder in holders]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Holder:
    """A task that holds a place, in which bytes are to move, until it is let go."""

    def __init__(self, places: Places, size: int, caller: str = "", *, ranked: bool = True) -> None:
        self.size = size
        self.inside = False
        self.place: Place | None = None
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold(places, caller or str(id(self)), ranked))

    async def _hold(self, places: Places, caller: str, ranked: bool) -> None:
        async with (
            places.hold(caller, self.size, ranked=ranked) as self.place,
            self.place.moving(60.0, "it stands still"),
        ):
            self.inside = True
            try:
                await self.leave.wait()
            finally:
                self.inside = False

    def moved(self, count: int) -> None:
        assert self.place is not None
        self.place.moved(count)

    async def end(self) -> None:
        self.leave.set()
        await self.task


def of(total: int, **more: Any) -> Places:
    return Places(total, SLOW, **more)


def run(scenario: Callable[[Places, Clock], Any], total: int = 10) -> None:
    clock = Clock()

    async def whole() -> None:
        async with asyncio.timeout(20):
            await scenario(of(total, clock=clock), clock)

    asyncio.run(whole())


async def later(places: Places, clock: Clock, seconds: float) -> None:
    """So many seconds pass, and those that wait are thought of."""
    clock.now += seconds
    places._review()
    await settle()


def test_places_are_given_out_first_come_first_served() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        first, large, small = (Holder(places, size) for size in (6, 8, 2))
        await settle()
        # The small one would fit, but must not overtake the large one for ever.
        assert inside(first, large, small) == [True, False, False]
        assert places.waiting == 2
        await first.end()
        await settle()
        assert inside(large, small) == [True, True]
        await large.end()
        await small.end()
        assert (places.held, places.waiting) == (0, 0)

    run(scenario)


def test_a_request_larger_than_the_total_is_let_in_alone() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        one, huge, other = (Holder(places, size) for size in (1, 100, 1))
        await settle()
        assert inside(one, huge, other) == [True, False, False]
        await one.end()
        await settle()
        assert inside(huge, other) == [True, False]
        await huge.end()
        await settle()
        assert other.inside
        await other.end()

    run(scenario)


def test_a_holder_that_fails_gives_its_place_back() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        with pytest.raises(KeyError):
            async with places.hold("a", 10):
                raise KeyError
        assert places.held == 0

    run(scenario)


@pytest.mark.parametrize("release_first", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_gives_up_waiting_lets_the_next_one_in(release_first: bool, at_once: bool) -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        first, waiting, last = (Holder(places, size) for size in (10, 10, 10))
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
        assert places.held == 0

    run(scenario)


def test_random_arrivals_and_cancellations_never_overdraw_and_leave_nothing_behind() -> None:
    async def scenario(seed: int) -> None:
        draw, places, total = random.Random(seed), of(10), 10
        holders: list[Holder] = []
        for _ in range(80):
            choice = draw.random()
            if choice < 0.5 or not holders:
                caller, ranked = draw.choice("abcd"), draw.random() < 0.5
                holders.append(Holder(places, draw.randint(1, 12), caller, ranked=ranked))
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
        assert (places.held, places.waiting) == (0, 0)
        assert not places._of
        assert not places._ranked

    for seed in range(60):
        asyncio.run(scenario(seed))


# --- whose turn it is ----------------------------------------------------------------------


def test_who_has_work_comes_before_strangers_and_then_who_holds_least() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        holders = [Holder(places, 4, "a"), Holder(places, 6, "b")]
        await settle()
        stranger = Holder(places, 1, "x", ranked=False)
        again = Holder(places, 1, "a")  # its second: no better than a stranger, but it holds more
        known = Holder(places, 1, "c")
        await settle()
        assert inside(stranger, again, known) == [False, False, False]
        order = []
        await holders[1].end()
        await settle()
        assert inside(stranger, again, known) == [True, True, True]
        for holder in (stranger, again, known, holders[0]):
            assert holder.place is not None
            order.append(holder.place)
        assert list(places._held) == [order[3], order[2], order[0], order[1]]
        for holder in (stranger, again, known, holders[0]):
            await holder.end()

    run(scenario)


def test_strangers_have_half_of_all_at_most() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        strangers = [Holder(places, 2, ranked=False) for _ in range(4)]
        await settle()
        assert inside(*strangers) == [True, True, False, False]
        known = [Holder(places, 3) for _ in range(2)]
        await settle()
        assert inside(*known) == [True, True]
        for holder in (*known, *strangers):
            await holder.end()

    run(scenario)


def test_only_so_many_strangers_stand_in_line() -> None:
    async def scenario() -> None:
        places = of(10, most_waiting=2)
        holders = [Holder(places, 10)] + [Holder(places, 1, ranked=False) for _ in range(2)]
        await settle()
        with pytest.raises(BusyError, match="too many wait") as busy:
            await places.take("x", 1)
        assert busy.value.retry_after_s > 0
        known = Holder(places, 10)
        await settle()
        assert places.waiting == 3
        for holder in (holders[0], known, *holders[1:]):
            await holder.end()

    asyncio.run(scenario())


# --- who loses it --------------------------------------------------------------------------


def test_nobody_loses_a_place_that_nobody_waits_for() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        holders = [Holder(places, 5), Holder(places, 5)]
        await settle()
        await later(places, clock, 1000.0)
        assert inside(*holders) == [True, True]
        assert places._timer is None
        for holder in holders:
            await holder.end()

    run(scenario)


def test_those_that_hardly_move_keep_half_while_others_wait() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        holders = [Holder(places, 2) for _ in range(5)]
        await settle()
        waiting = [Holder(places, 2) for _ in range(4)]
        await settle()
        for holder, count in zip(holders, (500, 100, 300, 0, 20_000), strict=True):
            holder.moved(count)
        await later(places, clock, 0.9)
        assert inside(*holders) == [True] * 5  # each may take a moment
        await later(places, clock, 1.1)
        # Of 8 that are slow 5 may stay: the slowest two go.
        assert inside(*holders) == [True, False, True, False, True]
        assert inside(*waiting) == [True, True, False, False]
        for loser in (holders[1], holders[3]):
            with pytest.raises(BusyError, match=r"hardly moved \(limits.slow_bytes_per_s\)"):
                await loser.task
        for holder in (holders[0], holders[2], holders[4], *waiting):
            await holder.end()

    run(scenario)


def test_the_slow_leave_room_for_who_is_first_in_line() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        slow, waiting = Holder(places, 3), Holder(places, 9)
        await settle()
        await later(places, clock, 2.0)
        assert inside(slow, waiting) == [False, True]
        assert isinstance(await asyncio.wait_for(asyncio.shield(_error(slow)), 5), BusyError)
        await waiting.end()

    run(scenario)


async def _error(holder: Holder) -> BaseException | None:
    await asyncio.wait([holder.task])
    return holder.task.exception()


def test_who_lost_a_place_waits_behind_the_others() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        mute, first = Holder(places, 10, "mute"), Holder(places, 10, "a")
        await settle()
        await later(places, clock, 2.0)
        assert inside(mute, first) == [False, True]
        assert isinstance(await _error(mute), BusyError)
        again, others = Holder(places, 10, "mute"), [Holder(places, 10, name) for name in "bc"]
        for holder in (first, *others):
            await settle()
            assert inside(holder, again) == [True, False]
            await holder.end()
        await settle()
        assert again.inside
        await again.end()
        clock.now += 10.0  # it is like any other again
        await later(places, clock, 0.0)
        holders = [Holder(places, 10, name) for name in ("x", "mute", "y")]
        await settle()
        await holders[0].end()
        await settle()
        assert inside(*holders) == [False, True, False]
        for holder in holders:
            await holder.end()

    run(scenario)


def test_a_large_message_is_credit_for_a_while_with_work_for_longer() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        known, stranger = Holder(places, 6), Holder(places, 4, ranked=False)
        await settle()
        for holder in (known, stranger):
            holder.moved(1 << 20)
        assert known.place is not None
        assert stranger.place is not None
        slow = [(known.place.slow(now), stranger.place.slow(now)) for now in (0.9, 1.1, 4.9, 5.1)]
        assert slow == [(False, False), (False, True), (False, True), (True, True)]
        for holder in (known, stranger):
            await holder.end()

    run(scenario)


def test_a_place_whose_bytes_are_all_here_is_nobodys_to_take() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        async with places.hold("a", 10, ranked=True) as place:
            async with place.moving(60.0, ""):
                pass
            waiting = Holder(places, 10)
            await settle()
            await later(places, clock, 100.0)
            assert not waiting.inside
        await waiting.end()

    run(scenario)


def test_a_place_that_was_left_goes_to_whoever_waits() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        dropped = []
        for name in "ab":
            place = await places.take(name, 4, ranked=True)
            place.leave(lambda name=name: dropped.append(name))  # type: ignore[misc]
        own = await places.take("b", 4, ranked=True)
        assert dropped == ["b"]  # its own before that of others
        other = await places.take("c", 6, ranked=True)
        assert dropped == ["b", "a"]
        assert places.held == 10
        own.free()
        other.free()
        assert places.held == 0

    run(scenario)


def test_a_place_that_its_caller_came_back_to_is_kept() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        place = await places.take("a", 10, ranked=True)
        place.leave(lambda: pytest.fail("it is used"))
        place.resume()
        waiting = Holder(places, 10)
        await settle()
        assert not waiting.inside
        place.free()
        await waiting.end()

    run(scenario)


def test_strangers_get_no_place_that_one_with_work_left() -> None:
    async def scenario(places: Places, clock: Clock) -> None:
        place = await places.take("a", 10, ranked=True)
        place.leave(lambda: pytest.fail("strangers wait"))
        stranger = Holder(places, 5, ranked=False)
        await settle()
        assert not stranger.inside
        place.free()
        await stranger.end()

    run(scenario)


def test_a_dribble_is_no_progress() -> None:
    async def scenario() -> None:
        async with of(10).hold("a", 1) as place, place.moving(0.1, "too slow"):
            while True:
                await asyncio.sleep(0.01)
                place.moved(100)

    with pytest.raises(StalledError, match="too slow"):
        asyncio.run(scenario())


@settings(max_examples=20, deadline=None)
@given(
    attackers=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 900), st.booleans()), max_size=12),
    honest=st.lists(st.tuples(st.integers(1, 12), st.integers(1000, 5000)), min_size=1, max_size=8),
)
def test_whoever_moves_is_served_whatever_others_do(
    attackers: list[tuple[int, int, bool]], honest: list[tuple[int, int]]
) -> None:
    """Attackers never end; they move less than is asked for, and come again as soon as they lost."""

    async def scenario(places: Places, clock: Clock) -> None:
        async def attack(caller: str, size: int, rate: int, ranked: bool) -> None:
            while True:
                holder = Holder(places, size, caller, ranked=ranked)
                held.append((holder, rate))
                try:
                    await asyncio.shield(holder.task)
                except (BusyError, asyncio.CancelledError):
                    holder.leave.set()
                    if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        await asyncio.wait([holder.task])
                        raise
                held.remove((holder, rate))

        held: list[tuple[Holder, int]] = []
        storm = [
            asyncio.ensure_future(attack(f"x{number}", *attacker))
            for number, attacker in enumerate(attackers)
        ]
        await settle()
        left = [(Holder(places, size), rate, [3]) for size, rate in honest]
        for _ in range(400):
            if not left:
                break
            for holder, rate in [*held, *((holder, rate) for holder, rate, _ in left)]:
                if holder.inside and rate:
                    holder.moved(rate)
            for entry in list(left):
                holder, rate, rest = entry
                if holder.inside:
                    rest[0] -= 1
                    if not rest[0]:
                        await holder.end()
                        left.remove(entry)
            used = [place.size for place in places._held]
            assert sum(used) <= 10 or len(used) == 1
            await later(places, clock, 0.99)
        assert left == []
        for task in storm:
            task.cancel()
        await asyncio.gather(*storm, return_exceptions=True)
        assert (places.held, places.waiting) == (0, 0)

    run(scenario)
