from __future__ import annotations

import asyncio

import pytest

from tests.tools.clock import skip
from utils.errors import StalledError
from utils.wire.watchdog import Watchdog


def test_a_block_that_makes_no_progress_is_ended() -> None:
    async def stand_still() -> None:
        async with Watchdog(0.02, "no bytes came"):
            await asyncio.Event().wait()

    with pytest.raises(StalledError, match="no bytes came"):
        asyncio.run(stand_still())


def test_a_block_that_moves_may_take_longer_than_the_limit() -> None:
    async def move() -> None:
        async with Watchdog(60.0, "no bytes came") as watchdog:
            for _ in range(10):
                skip(20.0)
                await asyncio.sleep(0)
                watchdog.progress()

    asyncio.run(move())


def test_progress_that_ends_is_noticed() -> None:
    async def stop_moving() -> None:
        async with Watchdog(0.05, "no bytes came") as watchdog:
            for _ in range(20):
                await asyncio.sleep(0.005)
                watchdog.progress()
            await asyncio.Event().wait()

    with pytest.raises(StalledError, match="no bytes came"):
        asyncio.run(stop_moving())


def test_errors_of_the_block_pass_through() -> None:
    async def fail() -> None:
        async with Watchdog(30.0, "no bytes came"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(fail())


def test_nothing_ends_a_task_whose_block_is_over() -> None:
    async def go_on() -> str:
        async with Watchdog(0.01, "no bytes came"):
            pass
        await asyncio.sleep(0.05)
        return "went on"

    assert asyncio.run(go_on()) == "went on"
