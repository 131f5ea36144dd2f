from __future__ import annotations

from leader.update_log.base import InOrder


def test_a_record_that_was_passed_over_is_read_first() -> None:
    order = InOrder()
    assert [order.passed_over(offset, 0.0) for offset in (7, 8)] == [None, None]
    assert [order.passed_over(10, now) for now in (0.1, 0.2)] == [9, 9]
    assert [order.passed_over(offset, 0.3) for offset in (9, 10, 11)] == [None, None, None]


def test_what_does_not_come_is_waited_for_once_and_not_for_ever() -> None:
    order = InOrder()
    assert order.passed_over(3, 0.0) is None
    assert [order.passed_over(50, now) for now in (10.0, 10.9, 11.1)] == [4, 4, None]
    assert [order.passed_over(51, 11.2), order.passed_over(53, 11.3)] == [None, 52]


def test_a_log_that_has_begun_anew_is_read_from_there() -> None:
    order = InOrder()
    assert [order.passed_over(offset, 0.0) for offset in (70, 0, 1)] == [None, None, None]
