from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.line import Line

MBIT = 125_000.0  # bytes a second


@given(late=st.lists(st.floats(0, 0.05), min_size=20, max_size=60), mbit=st.sampled_from([1, 100, 1000]))
def test_the_rate_holds_however_late_each_wake_up_is(late: list[float], mbit: int) -> None:
    line = Line(bytes_per_s=mbit * MBIT)
    now = 0.0
    for lateness in late:
        # Everything was there from the start; the caller wakes up some time after the bytes may leave.
        leaves_at = line.carry(line.chunk_bytes(), arrived_at=0.0)
        now = max(now, leaves_at) + lateness
    ideal_s = len(late) * line.chunk_bytes() / (mbit * MBIT)
    assert leaves_at == pytest.approx(ideal_s)


def test_bytes_take_their_time_and_queue_behind_those_before() -> None:
    line = Line(bytes_per_s=1000.0)
    assert line.carry(500, arrived_at=10.0) == 10.5
    assert line.carry(250, arrived_at=10.1) == 10.75


def test_time_in_which_nothing_waited_is_not_made_up_for() -> None:
    line = Line(bytes_per_s=1000.0)
    line.carry(100, arrived_at=0.0)
    assert line.carry(1000, arrived_at=60.0) == 61.0


def test_without_a_limit_bytes_leave_as_they_come() -> None:
    line = Line()
    assert line.carry(1 << 30, arrived_at=3.0) == 3.0


@pytest.mark.parametrize(
    ("bytes_per_s", "chunk_bytes"),
    [(None, 256 << 10), (1e3, 256), (100 * MBIT, 100_000), (1000 * MBIT, 256 << 10)],
)
def test_chunks_grow_with_the_rate(bytes_per_s: float | None, chunk_bytes: int) -> None:
    assert Line(bytes_per_s=bytes_per_s).chunk_bytes() == chunk_bytes
