"""Masked groups of an asynchronous run: orders that are given out together, and count together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leader.rounds.buffer import Buffer, Desk
from leader.rounds.groups import Groups
from leader.rounds.protocol import (
    Accepted,
    Action,
    Applied,
    Assigned,
    Begin,
    CloseGroup,
    CloseStep,
    Commit,
    Dispatch,
    Group,
    OpenOrder,
    Outdated,
    Phase,
    Remasked,
    RoundPlan,
    Tick,
    Unmasked,
)
from leader.rounds.script import Happened, Script
from utils.errors import DuplicateUpdateError, LateUpdateError

HOLDERS = {part: number for number, part in enumerate("abcdefgh", 1)}
NOTHING = Desk({}, {})


def buffer_of(
    groups: Groups, desk: Desk = NOTHING, *, parts: str = "abcdefgh", target: int = 4, **more: Any
) -> Buffer:
    plan = RoundPlan(3, 1, tuple(parts), quorum=4, deadline_s=10.0, target=target)
    script = Script(more.get("told"), more.get("note", lambda one: None))
    return Buffer(
        plan, desk, at_work=0, max_staleness=5, pick=lambda idle, n, _: idle[:n], script=script, groups=groups
    )


def begun(buffer: Buffer, holders: Mapping[str, int] = HOLDERS) -> list[Action]:
    return buffer.handle(Begin(holders), 0.0)


def given(actions: list[Action]) -> str:
    """The parts that orders are given out to."""
    return "".join(one.part for one in actions if isinstance(one, Dispatch))


def accept(buffer: Buffer, parts: str, turn: int = 0) -> list[Action]:
    """What the last of these updates brings; the others bring nothing."""
    for part in parts[:-1]:
        assert buffer.handle(Accepted(part, turn), 1.0) == []
    return buffer.handle(Accepted(parts[-1], turn), 1.0)


def test_orders_are_given_out_in_whole_groups_and_count_once_the_masks_are_off() -> None:
    buffer = buffer_of(Groups(3, 2))
    assert given(begun(buffer)) == "abcdef"
    assert [buffer.order(part) and buffer.order(part).key for part in "adg"] == [(3, 1), (3, 2), None]  # type: ignore[union-attr]
    assert accept(buffer, "def") == [CloseGroup((3, 2), ("d", "e", "f"))]
    assert buffer.phase is Phase.TRAINING
    assert isinstance(buffer.refusal(3, 0, "d"), DuplicateUpdateError)
    assert buffer.pending_of(4) == ()
    assert given(buffer.handle(Unmasked((3, 2), ("d", "e", "f")), 1.0)) == "def"  # g and h are too few
    assert accept(buffer, "abc") == [CloseGroup((3, 1), ("a", "b", "c"))]
    assert buffer.handle(Unmasked((3, 1), ("a", "b", "c")), 1.0) == [CloseStep(0, tuple("abcdef"))]
    assert buffer.handle(Applied(), 1.0) == [Commit()]
    assert {part: order.key for part, order in buffer.desk.orders.items()} == dict.fromkeys("def", (3, 3))


def test_whoever_is_in_an_open_sum_is_in_no_other_group() -> None:
    buffer = buffer_of(Groups(3, 2))
    begun(buffer)
    accept(buffer, "a")
    accept(buffer, "def")
    assert given(buffer.handle(Unmasked((3, 2), ("d", "e", "f")), 1.0)) == "def"
    assert buffer.order("a") == OpenOrder(3, 0, 1)


def test_a_group_that_lost_a_learner_closes_without_it_and_one_that_lost_too_many_gets_other_work() -> None:
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    assert accept(buffer, "abc") == []
    assert buffer.handle(Assigned("d", None), 2.0) == [CloseGroup((3, 1), ("a", "b", "c"))]
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    assert accept(buffer, "ab") == []
    assert buffer.handle(Assigned("c", None), 2.0) == []
    assert buffer.handle(Assigned("d", None), 2.0) == []
    assert buffer.order("a") is None
    assert isinstance(buffer.refusal(3, 0, "a"), LateUpdateError)
    again = buffer.handle(Assigned("c", 3), 2.0) + buffer.handle(Assigned("d", 4), 2.0)
    assert [(one.part, one.step) for one in again if isinstance(one, Dispatch)] == [
        ("a", 1), ("b", 1), ("c", 1), ("d", 1)
    ]  # fmt: skip


def test_where_fewer_learners_are_left_than_a_group_has_it_has_fewer() -> None:
    buffer = buffer_of(Groups(4, 3), parts="abcd")
    begun(buffer, {part: HOLDERS[part] for part in "abc"})
    assert accept(buffer, "abc") == [CloseGroup((3, 1), ("a", "b", "c"))]
    assert begun(buffer_of(Groups(4, 3), parts="abcd"), {"a": 1, "b": 2}) == []


def test_a_sum_that_can_not_be_unmasked_voids_the_work_of_all() -> None:
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    accept(buffer, "abcd")
    again = buffer.handle(Outdated("a", 0), 1.0)
    assert [(one.part, one.step) for one in again if isinstance(one, Dispatch)] == [
        (part, 1) for part in "abcd"
    ]


def test_a_group_that_is_masked_anew_has_the_same_work_and_nothing_in_its_sum() -> None:
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    accept(buffer, "abe")
    again = buffer.handle(Remasked((3, 1)), 1.0)
    assert again == [Dispatch(HOLDERS[part], part, 0) for part in "abcd"]
    assert buffer.refusal(3, 0, "a") is None
    assert isinstance(buffer.refusal(3, 0, "e"), DuplicateUpdateError)  # of the other group
    assert buffer.deadline == 10.0
    assert accept(buffer, "abcd") == [CloseGroup((3, 1), ("a", "b", "c", "d"))]


def test_a_group_waits_for_no_one_beyond_the_deadline() -> None:
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    accept(buffer, "abc")
    assert buffer.deadline == 10.0
    assert buffer.handle(Tick(), 10.0) == [CloseGroup((3, 1), ("a", "b", "c"))]
    again = buffer.handle(Unmasked((3, 1), ("a", "b", "c")), 10.0)
    assert given(again) == "abcdefgh"  # of the second group nobody has sent anything
    assert [buffer.order(part) for part in "de"] == [OpenOrder(3, 1)] * 2


def test_at_the_deadline_fewer_than_a_sum_needs_are_in_none() -> None:
    buffer = buffer_of(Groups(4, 3))
    begun(buffer)
    accept(buffer, "ab")
    again = buffer.handle(Tick(), 10.0)
    assert not any(isinstance(one, CloseGroup) for one in again)
    assert given(again) == "abcdefgh"


def test_who_has_left_stays_in_the_sum_over_the_end_of_a_round() -> None:
    groups = Groups(4, 3)
    first = buffer_of(groups)
    begun(first)
    accept(first, "ab")
    holders = {part: HOLDERS[part] for part in "bcdefgh"}
    second = buffer_of(groups, first.desk, parts="bcdefgh")
    begun(second, holders)
    assert accept(second, "cd") == [CloseGroup((3, 1), ("a", "b", "c", "d"))]
    assert second.handle(Unmasked((3, 1), tuple("abcd")), 1.0) == [CloseStep(0, tuple("abcd"))]


DECIDED: Mapping[Group, Mapping[str, int]] = {(2, 1): {"a": 4, "b": 0, "c": 0}}


def test_a_sum_that_is_known_from_a_file_counts_at_once_though_nobody_has_its_orders_any_more() -> None:
    buffer = buffer_of(Groups(4, 3, DECIDED))
    assert begun(buffer) == [CloseGroup((2, 1), ("a", "b", "c"))]
    after = buffer.handle(Unmasked((2, 1), ("a", "b", "c")), 0.0)
    assert [(one.part, one.step) for one in after if isinstance(one, Dispatch)][:2] == [("a", 5), ("b", 1)]
    assert isinstance(buffer.refusal(2, 4, "a"), DuplicateUpdateError)


def test_older_orders_of_sums_that_are_known_from_files_are_not_given_out_again() -> None:
    """With the older of two orders, learners would forget what unmasks the sum of the newer one."""
    known = {group: dict.fromkeys("abc", turn) for turn, group in enumerate([(2, 1), (3, 1)])}
    told = [Happened("counted", part, 0) for part in "abc"] + [
        Happened("given", part, 1, 1) for part in "abc"
    ]
    desk = Desk({part: OpenOrder(2, 0, 1) for part in "abc"}, dict.fromkeys("abc", 1))
    buffer = buffer_of(Groups(3, 2, known), desk, parts="abc", told=told)
    assert begun(buffer) == [CloseGroup((2, 1), ("a", "b", "c"))]
    newest = buffer.handle(Unmasked((2, 1), ("a", "b", "c")), 1.0)
    assert newest == [
        *(Dispatch(HOLDERS[part], part, 1) for part in "abc"),
        CloseGroup((3, 1), ("a", "b", "c")),
    ]


def test_it_counts_where_the_script_says_so_and_others_of_its_group_owe_nothing() -> None:
    """Of the group of four that the log tells of, three are in the sum."""
    told = [Happened("given", part, 0, 1) for part in "abcd"]
    told += [Happened("counted", part, 0) for part in "abc"] + [Happened("given", "a", 1, 2)]
    buffer = buffer_of(Groups(4, 3, {(3, 1): dict.fromkeys("abc", 0)}), told=told)
    assert CloseGroup((3, 1), ("a", "b", "c")) in begun(buffer)
    buffer.handle(Unmasked((3, 1), ("a", "b", "c")), 0.0)
    assert buffer.order("d") in (None, OpenOrder(3, 1, 3))
    assert dict(buffer.desk.turns)["a"] >= 2


def unmasked(buffer: Buffer, actions: list[Action]) -> list[Group]:
    """Take the masks off each sum that is closed from `actions` on; which those were, in their order."""
    closed = []
    while sums := [one for one in actions if isinstance(one, CloseGroup)]:
        closed.append(sums[0].group)
        actions = buffer.handle(Unmasked(sums[0].group, sums[0].parts), 1.0)
    return closed


def test_sums_known_from_files_count_one_after_the_other_where_the_log_can_not_be_followed() -> None:
    """Two learners are in both, one is in the second alone; h, whom the log tells of, has not come back."""
    known = {(2, 1): dict.fromkeys("abc", 0), (3, 1): {"a": 1, "b": 1, "d": 0}}
    told = [Happened("given", "h", 0, 2)]
    desk = Desk({part: OpenOrder(2, 0, 1) for part in "abc"}, dict.fromkeys("abc", 1))
    buffer = buffer_of(Groups(3, 2, known), desk, parts="abcdefg", told=told, target=6)
    assert unmasked(buffer, begun(buffer)) == [(2, 1), (3, 1)]
    inside = {(part, turn) for part in "abcd" for turn in (0, 1) if buffer.counted(part, turn)}
    assert inside == {*known[2, 1].items(), *known[3, 1].items()}


def test_a_leader_that_is_killed_twice_counts_a_sum_of_a_file_at_once_again() -> None:
    """The one in between could not follow the log, and tells of the sum as if it had given out its work."""
    known, noted = {(3, 1): dict.fromkeys("abc", 0)}, list[Happened]()
    second = buffer_of(Groups(3, 2, known), target=6, note=noted.append)
    assert unmasked(second, begun(second)) == [(3, 1)]
    assert [(one.what, one.part, one.group) for one in noted[1:4]] == [("given", part, 1) for part in "abc"]
    third = buffer_of(Groups(3, 2, known), target=6, told=noted[1:])
    assert unmasked(third, begun(third)) == [(3, 1)]
    assert third.desk.orders == second.desk.orders


def test_all_sums_of_a_buffer_that_are_known_from_files_count_in_it_in_whatever_order() -> None:
    """The last two were in it before the restart, and too few by themselves; the first one filled it."""
    known = {(3, 1): dict.fromkeys("abc", 0), (3, 2): dict.fromkeys("de", 0), (3, 3): dict.fromkeys("fg", 0)}
    buffer = buffer_of(Groups(3, 2, known), target=5)
    assert unmasked(buffer, begun(buffer)) == [(3, 1), (3, 2), (3, 3)]
    assert buffer.phase is Phase.APPLYING
    assert all(buffer.counted(part, 0) for part in "abcdefg")
    buffer = buffer_of(Groups(3, 2, known), target=5)
    begun(buffer)
    buffer.handle(Unmasked((3, 1), ("a", "b", "c")), 1.0)
    assert buffer.handle(Unmasked((3, 2), ("d", "e")), 1.0) == [CloseGroup((3, 3), ("f", "g"))]
    assert buffer.handle(Outdated("f", 0), 1.0) == [CloseStep(0, tuple("abcde"))]  # nobody unmasks it
