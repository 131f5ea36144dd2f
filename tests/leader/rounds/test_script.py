"""Buffers that follow the script of an earlier process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from leader.rounds.buffer import Buffer, Desk
from leader.rounds.protocol import (
    Accepted,
    Action,
    Applied,
    Begin,
    CloseStep,
    Dispatch,
    OpenOrder,
    Outdated,
    Phase,
    RoundPlan,
    Tick,
)
from leader.rounds.script import Happened, Script
from utils.errors import DuplicateUpdateError

PARTS = ("a", "b", "c")
HOLDERS = {"a": 1, "b": 2, "c": 3}
OPEN = Desk({part: OpenOrder(4, 7) for part in PARTS}, dict.fromkeys(PARTS, 8))
BEGUN, CLOSED = Happened("begun"), Happened("closed")


def given(part: str, turn: int = 8) -> Happened:
    return Happened("given", part, turn)


def counted(part: str, turn: int = 7) -> Happened:
    return Happened("counted", part, turn)


class Watched:
    """A buffer of three, in round 5, and what it told."""

    def __init__(
        self, told: Sequence[Happened] | None, *, target: int = 3, parts: Sequence[str] = PARTS
    ) -> None:
        self.noted: list[Happened] = []
        plan = RoundPlan(5, 1, tuple(parts), 1, deadline_s=10.0, target=target)
        script = Script(told, self.noted.append)
        self.buffer = Buffer(
            plan, OPEN, at_work=0, max_staleness=9, pick=lambda idle, count, _: idle[:count], script=script
        )
        self.begun = self.buffer.handle(Begin({part: HOLDERS[part] for part in parts}), 0.0)

    def accept(self, part: str, turn: int = 7) -> list[Action]:
        return self.buffer.handle(Accepted(part, turn), 1.0)


def test_a_round_that_nothing_was_told_of_tells_what_happens() -> None:
    run = Watched(None)
    run.accept("b")
    run.accept("b", 8)
    run.accept("a")
    assert run.noted == [BEGUN, counted("b"), given("b"), counted("b", 8), counted("a")]  # b has its share
    late = Watched(None)
    late.accept("c")
    late.buffer.handle(Tick(), 10.0)
    assert late.noted == [BEGUN, counted("c"), given("c"), CLOSED]


def test_the_same_updates_fill_the_buffer_in_whatever_order_they_come_and_the_same_work_follows() -> None:
    told = [counted("b"), given("b"), counted("a"), given("a"), counted("b", 8)]
    for order in ("ab", "ba"):
        run = Watched(told)
        for part in order:
            run.accept(part)
        assert run.buffer.desk.orders == {"c": OpenOrder(4, 7), "a": OpenOrder(5, 8), "b": OpenOrder(5, 8)}
        assert run.accept("b", 8) == [CloseStep(0, ("a", "b"))]
        assert run.noted == []


def test_an_update_that_was_not_counted_then_waits_where_there_is_no_room_for_it() -> None:
    run = Watched([counted("a"), counted("b")], target=2)
    refusal = run.buffer.refusal(4, 7, "c")
    assert isinstance(refusal, DuplicateUpdateError)  # its learner keeps it
    assert run.buffer.refusal(4, 7, "a") is None
    for part in "ab":
        run.accept(part)
    run.buffer.handle(Applied(), 2.0)
    assert run.buffer.desk.given == {}  # so that its order goes out again in the next round


def test_a_buffer_that_was_open_goes_on_after_its_script() -> None:
    run = Watched([counted("a"), given("a")])
    assert run.buffer.refusal(4, 7, "c") is None
    run.accept("c")
    assert run.noted == [counted("c")]
    assert run.accept("a") == [Dispatch(1, "a", 8), Dispatch(3, "c", 8)]
    assert run.noted == [counted("c"), given("c")]
    run.accept("b")
    assert run.buffer.phase is Phase.APPLYING


def test_a_round_that_was_closed_at_its_deadline_closes_on_the_same_updates() -> None:
    run = Watched([counted("a"), given("a"), CLOSED])
    assert isinstance(run.buffer.refusal(4, 7, "c"), DuplicateUpdateError)
    assert run.accept("a") == [Dispatch(1, "a", 8), CloseStep(0, ("a",))]
    assert run.noted == []


def test_orders_are_given_out_anew_as_they_were() -> None:
    run = Watched([given("b", 8), counted("b", 8), given("b", 9), counted("a")])  # b's had become outdated
    assert run.buffer.order("b") == OpenOrder(5, 8)
    run.accept("b", 8)
    assert run.buffer.order("b") == OpenOrder(5, 9)


@pytest.mark.parametrize("why", ["deadline", "outdated"])
def test_a_script_that_cannot_be_followed_is_given_up(why: str) -> None:
    run = Watched([counted("a"), given("a"), counted("b"), given("b")])
    run.accept("b")
    if why == "deadline":
        actions = run.buffer.handle(Tick(), 10.0)
        assert run.noted == [BEGUN, counted("b"), CLOSED]
        assert CloseStep(0, ("b",)) in actions
    else:
        run.buffer.handle(Outdated("a", 7), 2.0)
        assert run.noted == [BEGUN, counted("b"), given("a"), given("b")]


def test_without_its_parts_a_script_is_given_up_at_once() -> None:
    run = Watched([given("b"), counted("c")], parts="ab")
    assert run.noted == [BEGUN]
    assert run.buffer.order("b") == OpenOrder(4, 7)
