"""Who asks evenly is never refused, who asks in bursts is until the pace is even again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.trust.access import limiter
from leader.trust.access.limiter import Limiter
from utils.errors import BusyError


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limits: Limiter, key: str, times: int) -> int:
    """How many of so many attempts at this moment are let through."""
    count = 0
    for _ in range(times):
        if not limits.wait_s(key):
            limits.take(key)
            count += 1
    return count


def test_a_burst_is_let_through_and_then_the_even_pace() -> None:
    clock = Clock()
    limits = Limiter(5.0, 1.0, 10, "calls a second", clock)
    assert taken(limits, "a", 50) == 10
    clock.now += 1.0
    assert taken(limits, "a", 50) == 5
    clock.now += 3600.0
    assert taken(limits, "a", 50) == 10


def test_one_caller_does_not_slow_another() -> None:
    limits = Limiter(1.0, 60.0, 1, "enrolments a minute", Clock())
    assert taken(limits, "a", 9) == taken(limits, "b", 9) == 1


def test_a_refusal_says_how_long_to_wait_and_that_is_long_enough() -> None:
    clock = Clock()
    limits = Limiter(4.0, 60.0, 1, "registrations a minute", clock)
    limits.take("a")
    with pytest.raises(BusyError, match=r"more than 4 registrations a minute; try again in 15.0 s") as caught:
        limits.take("a")
    assert caught.value.retry_after_s == 15.0
    clock.now += 15.0
    limits.take("a")


def test_what_was_counted_beyond_the_limit_is_a_debt() -> None:
    clock = Clock()
    hourly = Limiter(3600.0, 3600.0, 3600.0, "bytes", clock)  # one a second
    hourly.add("a", 3600.0 + 50.0)
    assert hourly.wait_s("a", 0.0) == 50.0


def test_memory_is_bounded_and_the_busy_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "_KEPT", 3)
    limits = Limiter(1.0, 60.0, 1, "calls", Clock())
    for key in ("busy", "a", "b", "busy", "c", "d"):
        limits.add(key)
    assert limits.wait_s("busy") > 0
    assert limits.wait_s("a") == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_no_window_sees_more_than_burst_and_pace(waits: list[float]) -> None:
    clock = Clock()
    limits = Limiter(2.0, 1.0, 4, "calls a second", clock)
    began, let = clock.now, 0
    for wait in waits:
        clock.now += wait
        let += taken(limits, "a", 3)
        assert let <= 4 + 2.0 * (clock.now - began) + 1e-3
