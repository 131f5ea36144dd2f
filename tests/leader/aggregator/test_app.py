"""The aggregator program: whose summing ends by a fault joins anew, instead of being there and idle."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from leader.aggregator.app import Summing


class Broken:
    """A member that fails at what it reads."""

    def run(self) -> None:
        raise ZeroDivisionError("no such block")


def test_summing_that_fails_ends_its_stream_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        lost = asyncio.Event()
        summing = Summing(cast(Any, Broken()))
        summing.lose = lost.set
        await asyncio.wait_for(lost.wait(), 20)
        assert not summing.goes_on

    asyncio.run(play())
    assert "this aggregator joins again" in caplog.text
    assert "ZeroDivisionError: no such block" in caplog.text
