from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from leader.rounds.buffer import Buffer, Desk
from leader.rounds.protocol import (
    Abandon,
    Accepted,
    Action,
    Applied,
    Assigned,
    Begin,
    CloseStep,
    Commit,
    Deserted,
    Dispatch,
    OpenOrder,
    Outdated,
    Overdue,
    Phase,
    RoundEvent,
    RoundPlan,
    Tick,
)
from tests.leader.rounds import any_order
from tests.leader.rounds.any_order import OVER, PARTS, off_by, some_part
from utils.errors import DuplicateUpdateError, LateUpdateError

NOTHING = Desk({}, {})


def plan_of(*, round_: int = 7, parts: int = 2, quorum: int = 1, target: int = 2) -> RoundPlan:
    return RoundPlan(round_, 1, PARTS[:parts], quorum, deadline_s=10.0, target=target)


def rotating(idle: Sequence[str], count: int, given: int) -> Sequence[str]:
    """Another part first each time."""
    assert list(idle) == sorted(set(idle))
    assert 0 < count <= len(idle)
    first = given % len(idle)
    return [*idle[first:], *idle[:first]][:count]


def buffer_of(
    plan: RoundPlan | None = None, desk: Desk = NOTHING, *, at_work: int = 0, max_staleness: int = 2
) -> Buffer:
    return Buffer(plan or plan_of(), desk, at_work=at_work, max_staleness=max_staleness, pick=rotating)


class Watched:
    """Buffers of one run, one after the other, and beside them what events and actions must have come to."""

    def __init__(self, *, parts: int, quorum: int, target: int, at_work: int, max_staleness: int) -> None:
        self.parts, self.quorum, self.target = PARTS[:parts], quorum, target
        self.at_work, self.max_staleness = at_work, max_staleness
        self.now = 100.0
        self.committed = NOTHING
        self.counted: set[tuple[str, int]] = set()  # (part, turn) in committed rounds
        self.ends: Counter[Phase] = Counter()
        self.rounds = 0
        self._open(NOTHING)

    def _open(self, desk: Desk) -> None:
        plan = RoundPlan(self.rounds + 1, 1, self.parts, self.quorum, deadline_s=10.0, target=self.target)
        self.buffer = buffer_of(plan, desk, at_work=self.at_work, max_staleness=self.max_staleness)
        self.orders = dict(desk.orders)
        self.turns = dict(desk.turns)
        self.sent: dict[str, int | None] = dict(desk.given)  # whom the open order was last given to
        self.holders: dict[str, int | None] = dict.fromkeys(self.parts)
        self.inside: set[tuple[str, int]] = set()
        self.by: Counter[int | None] = Counter()
        self.givers: dict[str, int | None] = dict(
            desk.given
        )  # whose update it is, whoever holds the part now
        self.late = set(desk.late)
        self.opened = self.since = 0.0
        self.known = 0  # updates that were in at the last deadline

    def next_round(self) -> None:
        """As the coordinator does: on from the commit, or from the last one where the round was given up."""
        if self.buffer.phase is Phase.COMMITTED:
            assert not self.counted & self.inside  # nothing twice over the whole run
            self.counted |= self.inside
            self.rounds += 1
            self.committed = self.buffer.desk
            self._open(self.committed)
        elif self.buffer.phase is Phase.ABANDONED:
            self._open(Desk(self.committed.orders, self.committed.turns))

    @property
    def working(self) -> int:
        return sum(self.holders[part] is not None for part in self.orders)

    @property
    def room(self) -> int:
        return (self.at_work or len(self.parts)) - self.working

    def share(self, learner: int | None) -> int:
        """How many more orders the learner may have, as the module's docstring says."""
        beside = {held for held in self.holders.values() if held is not None} - self.late - {learner}
        if not beside or self.target == 1:
            return 1
        most = min(self.target - 1, max(2, -(-4 * self.target // (len(beside) + 1))))
        return most - self.by[learner] - sum(self.holders[part] == learner for part in self.orders)

    def feed(self, event: RoundEvent) -> list[Action]:
        """Hand the event over, then compare actions and phase with what they must be."""
        before = self.buffer.phase
        known = self._expect(event, before)
        actions = self.buffer.handle(event, self.now)
        for action in actions:
            self._check(action, event, before, known)
        if any(isinstance(action, Dispatch) and action.part not in known for action in actions):
            assert self.room >= 0  # new work only as far as there is room
        if before in OVER:
            assert actions == []
            assert self.buffer.phase is before
        if before is Phase.TRAINING and self.buffer.phase in OVER:
            self.ends[self.buffer.phase] += 1
        self.check()
        return actions

    def _expect(self, event: RoundEvent, before: Phase) -> set[str]:
        """What the event alone changes; the parts that had an order before and keep it."""
        training = before is Phase.TRAINING
        match event:
            case Begin(holders) if before is Phase.SELECTING:
                self.holders = {part: holders.get(part) for part in self.parts}
                self.opened = self.since = self.now
                for part, order in list(self.orders.items()):
                    if self.buffer.plan.round - order.round > self.max_staleness:
                        del self.orders[part]
            case Accepted(part, turn) if training and self._is_open(part, turn):
                del self.orders[part]
                self.inside.add((part, turn))
                self.by[self.givers.get(part)] += 1
                self.late.discard(self.givers.get(part))
                self.since = self.now
            case Tick() if training and self.buffer.deadline is not None and self.buffer.deadline <= self.now:
                if self.now < self.opened + 10.0:
                    self.late |= {self.holders[part] for part in self.orders} - {None}
                    self.since = self.now
                elif self.known < len(self.inside) < self.quorum and self.orders:
                    self.known, self.opened = len(self.inside), self.now
            case Outdated(part, turn) if training and self._is_open(part, turn):
                del self.orders[part]
            case Assigned(part, learner) if part in self.holders:
                if training and self.holders[part] != learner:
                    self.sent[part] = None
                self.holders[part] = learner
        return set(self.orders)

    def _is_open(self, part: str, turn: int) -> bool:
        return part in self.orders and self.orders[part].turn == turn

    def _check(self, action: Action, event: RoundEvent, before: Phase, known: set[str]) -> None:
        match action:
            case Dispatch(learner, part, turn):
                assert self.holders[part] == learner
                if part in known:
                    assert self.orders[part].turn == turn
                    assert self.sent.get(part) != learner  # only to a new holder
                else:
                    assert turn == self.turns.get(part, 0)
                    assert self.share(learner) > 0
                    self.turns[part] = turn + 1
                    self.orders[part] = OpenOrder(self.buffer.plan.round, turn)
                self.sent[part] = self.givers[part] = learner
            case CloseStep(step, parts):
                assert step == 0
                assert parts == tuple(sorted({part for part, _ in self.inside}))
                if isinstance(event, Tick):
                    assert self.now >= self.opened + 10.0
                    assert self.quorum <= len(self.inside) < self.target
                else:
                    assert isinstance(event, Accepted)
                    assert len(self.inside) == self.target
            case Commit():
                assert before is Phase.APPLYING
                self.ends[Phase.COMMITTED] += 1
            case Abandon():
                assert before is Phase.TRAINING
                if isinstance(event, Tick):
                    assert self.now >= self.opened + 10.0
                    assert len(self.inside) < self.quorum
                    assert len(self.inside) == self.known or not self.orders
                else:
                    assert isinstance(event, Deserted)

    def check(self) -> None:
        """What holds between any two events."""
        buffer, phase, desk = self.buffer, self.buffer.phase, self.buffer.desk
        pending, owing = set(buffer.pending), buffer.owing()
        assert (buffer.deadline is not None) == (phase is Phase.TRAINING)
        assert dict(desk.orders) == self.orders
        assert dict(desk.turns) == self.turns
        assert pending == (set() if phase is Phase.ABANDONED else set(self.orders))
        for learner in (1, 2, 3):
            held = {part for part in pending if self.holders[part] == learner}
            assert set(buffer.pending_of(learner)) == held
            assert (learner in owing) == any(self.holders[p] == learner for p in self.orders)
        for part, turn in self.inside:
            kind = LateUpdateError if phase is Phase.ABANDONED else DuplicateUpdateError
            assert isinstance(buffer.refusal(buffer.plan.round, turn, part), kind)
        for part, turns in self.turns.items():
            open_, last = self.orders.get(part), OpenOrder(buffer.plan.round, turns - 1)
            for order in {last, OpenOrder(last.round, turns), OpenOrder(last.round - 1, turns - 1)}:
                taken = buffer.refusal(order.round, order.turn, part) is None
                assert taken == (open_ == order and phase is not Phase.ABANDONED)
        if phase is not Phase.TRAINING:
            return
        assert len(self.inside) < self.target
        idle = [part for part in self.parts if self.holders[part] is not None and part not in self.orders]
        free = [part for part in idle if self.share(self.holders[part]) > 0]
        assert self.room <= 0 or not free  # nobody waits while there is room
        assert len(self.by) <= 1 or self.target == 1 or max(self.by.values()) < self.target or self.late
        wakes = self.opened + 10.0 if free == idle else min(self.since + 5.0, self.opened + 10.0)
        assert buffer.deadline == wakes
        for part, order in self.orders.items():
            assert 0 <= buffer.plan.round - order.round <= self.max_staleness
            assert self.holders[part] in (None, self.sent.get(part))

    def run_out(self) -> None:
        """Nothing but the clock and finished steps from here on: the round must end."""
        for _ in range(6):
            if self.buffer.phase is Phase.SELECTING:
                self.feed(Begin({}))
            self.now = self.buffer.deadline or self.now
            self.feed(Applied() if self.buffer.phase is Phase.APPLYING else Tick())
        assert self.buffer.phase in OVER


runs = st.integers(1, 6).flatmap(
    lambda target: st.builds(
        Watched,
        parts=st.integers(1, 4),
        quorum=st.integers(1, target),
        target=st.just(target),
        at_work=st.integers(0, 4),
        max_staleness=st.integers(0, 3),
    )
)


class AnyOrder(any_order.AnyOrder):
    """Every event at any time, also those that make no sense, over several rounds."""

    watched: Watched

    @initialize(watched=runs)
    def plan(self, watched: Watched) -> None:
        self.watched = watched

    def turn(self, part: str, off: int) -> int:
        order = self.watched.orders.get(part)
        return (order.turn if order else 0) + off

    @rule(holders=st.dictionaries(some_part, st.integers(1, 3)))
    def begin(self, holders: dict[str, int]) -> None:
        self.watched.next_round()
        self.watched.feed(Begin(holders))

    @rule(part=some_part, off=off_by)
    def accepted(self, part: str, off: int) -> None:
        self.watched.feed(Accepted(part, self.turn(part, off)))

    @rule(part=some_part, off=off_by)
    def outdated(self, part: str, off: int) -> None:
        self.watched.feed(Outdated(part, self.turn(part, off)))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def random_event(watched: Watched, draw: random.Random) -> RoundEvent:
    part, kind = draw.choice(PARTS), draw.random()
    order = watched.orders.get(part)
    turn = (order.turn if order else 0) + (draw.random() < 0.1)
    if watched.buffer.phase in OVER:
        watched.next_round()
    if watched.buffer.phase is Phase.SELECTING:
        return Begin({part: draw.randint(1, 3) for part in PARTS if draw.random() < 0.8})
    if watched.buffer.phase is Phase.APPLYING and kind < 0.7:
        return Applied()
    if kind < 0.55:
        return Accepted(part, turn)
    if kind < 0.75:
        return Assigned(part, draw.choice((None, 1, 2, 3)))
    if kind < 0.85:
        return Outdated(part, turn)
    if kind < 0.87:
        return Deserted()
    watched.now += draw.choice((0.0, 1.0, 5.0, 10.0))
    return Tick()


def test_ten_thousand_random_event_orders_break_no_rule_and_all_end() -> None:
    draw = random.Random(0)
    ends: Counter[Phase] = Counter()
    orders = set()
    for _ in range(10_500):
        target = draw.randint(1, 5)
        watched = Watched(
            parts=4,
            quorum=draw.randint(1, target),
            target=target,
            at_work=draw.randint(0, 4),
            max_staleness=draw.randint(0, 2),
        )
        events: list[RoundEvent] = []
        for _ in range(25):
            events.append(random_event(watched, draw))
            watched.feed(events[-1])
        ends += watched.ends + Counter([watched.buffer.phase])
        orders.add(repr((target, watched.quorum, watched.at_work, watched.max_staleness, events)))
        watched.run_out()
    assert len(orders) > 10_000
    assert min(ends[phase] for phase in (*OVER, Phase.TRAINING, Phase.APPLYING)) > 300


# --- single rules, told as stories ---------------------------------------------------------

ONE_EACH = {"a": 1, "b": 2, "c": 3, "d": 4}


def begun(buffer: Buffer, holders: dict[str, int] | None = None) -> Buffer:
    buffer.handle(Begin(ONE_EACH if holders is None else holders), 0.0)
    return buffer


def filled(buffer: Buffer, *parts: str) -> Buffer:
    """After one update of each of these parts and the step, if they were enough."""
    for part in parts:
        order = buffer.order(part)
        assert order is not None
        buffer.handle(Accepted(part, order.turn), 0.0)
    buffer.handle(Applied(), 0.0)
    return buffer


def test_a_slow_learner_holds_nobody_up() -> None:
    buffer = begun(buffer_of(plan_of(parts=3, round_=1, target=3), max_staleness=9))
    for round_ in range(1, 10):
        a, b = 2 * round_ - 2, round_ - 1
        assert buffer.handle(Accepted("a", a), 1.0) == [Dispatch(1, "a", a + 1)]
        assert buffer.handle(Accepted("b", b), 1.0) == [Dispatch(2, "b", b + 1)]
        assert buffer.handle(Accepted("a", a + 1), 1.0) == [CloseStep(0, ("a", "b"))]
        assert buffer.handle(Applied(), 1.0) == [Commit()]
        buffer = buffer_of(plan_of(parts=3, round_=round_ + 1, target=3), buffer.desk, max_staleness=9)
        assert buffer.handle(Begin(ONE_EACH), 1.0) == [Dispatch(1, "a", a + 2)]
        assert buffer.order("c") == OpenOrder(1, 0)
    assert buffer.refusal(1, 0, "c") is None
    assert buffer.handle(Accepted("c", 0), 2.0) == [Dispatch(3, "c", 1)]
    assert buffer.order("c") == OpenOrder(10, 1)


@pytest.mark.parametrize(
    ("learners", "target", "share"), [(1, 4, 4), (2, 2, 1), (2, 8, 7), (3, 3, 2), (4, 2, 1), (4, 8, 7)]
)
def test_a_learner_that_answers_at_once_has_no_more_than_its_share(
    learners: int, target: int, share: int
) -> None:
    buffer = begun(buffer_of(plan_of(parts=learners, target=target)))
    for turn in range(share - 1):
        assert buffer.handle(Accepted("a", turn), 0.0) == [Dispatch(1, "a", turn + 1)]
    (closes,) = buffer.handle(Accepted("a", share - 1), 0.0) or (None,)
    if share == target:
        assert closes == CloseStep(0, ("a",))
        return
    assert (closes, buffer.order("a")) == (None, None)
    actions = buffer.handle(Accepted("b", 0), 1.0)
    assert actions == [CloseStep(0, ("a", "b"))] if share == target - 1 else [Dispatch(2, "b", 1)]
    buffer.handle(Applied(), 1.0)
    after = buffer_of(plan_of(round_=8, parts=learners, target=target), buffer.desk)
    assert Dispatch(1, "a", share) in after.handle(Begin(ONE_EACH), 1.0)


def test_in_a_large_crew_a_share_is_four_times_an_even_one() -> None:
    parts = tuple(f"{number:02}" for number in range(20))
    plan = RoundPlan(1, 1, parts, quorum=1, deadline_s=10.0, target=20)
    buffer = begun(buffer_of(plan), {part: number for number, part in enumerate(parts)})
    for turn in range(3):
        assert buffer.handle(Accepted("00", turn), 0.0) == [Dispatch(0, "00", turn + 1)]
    assert buffer.handle(Accepted("00", 3), 0.0) == []


def test_the_parts_of_one_learner_have_its_share_together() -> None:
    buffer = buffer_of(plan_of(parts=4, target=3))
    given = buffer.handle(Begin({"a": 1, "b": 1, "c": 1, "d": 2}), 0.0)
    assert [action.learner for action in given if isinstance(action, Dispatch)] == [1, 1, 2]
    assert buffer.handle(Accepted("a", 0), 0.0) == []
    assert buffer.handle(Accepted("b", 0), 0.0) == []
    assert buffer.handle(Accepted("d", 0), 0.0) == [CloseStep(0, ("a", "b", "d"))]


def test_who_holds_work_and_sends_nothing_is_waited_for_half_the_deadline_and_then_no_more() -> None:
    buffer = begun(buffer_of(plan_of(quorum=2)))
    assert buffer.deadline == 10.0
    assert buffer.handle(Accepted("a", 0), 1.0) == []
    assert buffer.deadline == 6.0
    assert buffer.handle(Tick(), 6.0) == [Dispatch(1, "a", 1)]
    assert buffer.deadline == 10.0
    assert buffer.handle(Accepted("a", 1), 6.5) == [CloseStep(0, ("a",))]
    buffer.handle(Applied(), 7.0)
    after = begun(buffer_of(plan_of(round_=8), buffer.desk))
    assert after.handle(Accepted("a", 2), 7.0) == [Dispatch(1, "a", 3)]
    assert after.handle(Accepted("b", 0), 8.0) == [CloseStep(0, ("a", "b"))]  # it is back
    after.handle(Applied(), 8.0)
    third = begun(buffer_of(plan_of(round_=9), after.desk))
    assert third.handle(Accepted("a", 3), 9.0) == []


def test_work_that_has_become_too_old_is_given_out_anew() -> None:
    buffer = filled(begun(buffer_of(plan_of(round_=1, target=1), max_staleness=1)), "a")
    second = buffer_of(plan_of(round_=2, target=1), buffer.desk, max_staleness=1)
    assert second.handle(Begin(ONE_EACH), 0.0) == [Dispatch(1, "a", 1)]
    assert second.refusal(1, 0, "b") is None
    third = buffer_of(plan_of(round_=3, target=1), filled(second, "a").desk, max_staleness=1)
    assert sorted(map(repr, third.handle(Begin(ONE_EACH), 0.0))) == sorted(
        map(repr, [Overdue(frozenset({2}), False), Dispatch(1, "a", 2), Dispatch(2, "b", 1)])
    )
    assert isinstance(third.refusal(1, 0, "b"), LateUpdateError)
    assert third.order("b") == OpenOrder(3, 1)


def test_the_next_buffer_does_not_give_out_again_what_learners_have() -> None:
    buffer = filled(begun(buffer_of(plan_of(parts=4, target=3))), "a", "b", "c")
    after = buffer_of(plan_of(round_=8, parts=4, target=3), buffer.desk)
    assert after.handle(Begin(ONE_EACH), 0.0) == [
        Dispatch(3, "c", 1)
    ]  # those of a and b were given out at once


def test_open_work_goes_to_whoever_holds_the_part_when_the_next_buffer_opens() -> None:
    desk = filled(begun(buffer_of(plan_of(parts=3, target=1))), "a").desk
    after = buffer_of(plan_of(round_=8, parts=3, target=1), desk)
    actions = after.handle(Begin({"a": 1, "b": 3, "c": 3}), 0.0)
    assert actions == [Dispatch(3, "b", 0), Dispatch(1, "a", 1)]


def test_after_a_restart_all_open_work_is_given_out_again() -> None:
    desk = filled(begun(buffer_of(plan_of(parts=3, target=1))), "a").desk
    resumed = buffer_of(plan_of(round_=8, parts=3, target=1), Desk(desk.orders, desk.turns))
    assert resumed.handle(Begin(ONE_EACH), 0.0) == [
        Dispatch(2, "b", 0),
        Dispatch(3, "c", 0),
        Dispatch(1, "a", 1),
    ]


def test_work_of_a_part_that_is_gone_is_forgotten_and_its_number_is_not() -> None:
    desk = begun(buffer_of(plan_of(parts=3))).desk
    without = buffer_of(plan_of(round_=8, parts=2), desk)
    assert set(without.desk.orders) == {"a", "b"}
    again = buffer_of(plan_of(round_=9, parts=3), without.desk)
    assert again.handle(Begin({"c": 3}), 0.0) == [Dispatch(3, "c", 1)]


def test_a_part_that_moves_is_dispatched_once_to_its_new_holder() -> None:
    buffer = begun(buffer_of(plan_of(parts=2, target=4)))
    assert buffer.handle(Assigned("b", 1), 1.0) == [Dispatch(1, "b", 0)]
    assert buffer.handle(Assigned("b", 1), 1.0) == []
    assert buffer.handle(Assigned("b", None), 1.0) == []
    assert buffer.pending_of(1) == ("a",)
    assert buffer.owing() == {1}
    assert buffer.handle(Assigned("b", 2), 1.0) == [Dispatch(2, "b", 0)]
    assert buffer.handle(Accepted("b", 0), 1.0) == [Dispatch(2, "b", 1)]


def test_only_so_many_parts_are_at_work_and_each_gets_its_turn() -> None:
    buffer = buffer_of(plan_of(parts=4, target=9), at_work=2)
    assert buffer.handle(Begin(ONE_EACH), 0.0) == [Dispatch(1, "a", 0), Dispatch(2, "b", 0)]
    assert buffer.handle(Accepted("a", 0), 0.0) == [Dispatch(4, "d", 0)]  # a, c and d are idle, 2 given out
    assert buffer.handle(Accepted("b", 0), 0.0) == [Dispatch(1, "a", 1)]
    assert buffer.handle(Assigned("d", None), 0.0) == [Dispatch(2, "b", 1)]  # nobody works on d for now
    assert buffer.handle(Assigned("d", 4), 0.0) == [Dispatch(4, "d", 0)]  # one more than two
    assert buffer.handle(Accepted("a", 1), 0.0) == []
    assert buffer.handle(Accepted("d", 0), 0.0) == [Dispatch(4, "d", 1)]  # a, c and d are idle, 5 given out


def test_work_whose_model_is_gone_is_given_out_anew_once() -> None:
    buffer = begun(buffer_of())
    assert buffer.handle(Outdated("a", 0), 0.0) == [Dispatch(1, "a", 1)]
    assert buffer.handle(Outdated("a", 0), 0.0) == []
    assert isinstance(buffer.refusal(7, 0, "a"), LateUpdateError)
    assert buffer.refusal(7, 1, "a") is None


def test_an_update_is_counted_once() -> None:
    buffer = begun(buffer_of(plan_of(target=3)))
    assert buffer.handle(Accepted("a", 0), 0.0) == [Dispatch(1, "a", 1)]
    assert buffer.handle(Accepted("a", 0), 0.0) == []
    refusal = buffer.refusal(7, 0, "a")
    assert isinstance(refusal, DuplicateUpdateError)
    assert str(refusal) == "this update for a is already counted in round 7"
    late = buffer.refusal(6, 1, "a")
    assert isinstance(late, LateUpdateError)
    assert str(late) == "work on a from round 6 is no longer open in round 7; wait for new work"


@pytest.mark.parametrize(("updates", "closes"), [(0, False), (2, True)])
def test_at_the_deadline_the_quorum_decides(updates: int, closes: bool) -> None:
    buffer = begun(buffer_of(plan_of(parts=4, quorum=2, target=4)))
    for part in PARTS[:updates]:
        buffer.handle(Accepted(part, 0), 1.0)
    assert buffer.deadline == 10.0
    assert buffer.handle(Tick(), 9.9) == []
    reason = "0 of 4 updates in after 10 s, 2 are needed"
    late = frozenset({3, 4} if closes else {1, 2, 3, 4})  # the others have begun their next work just now
    assert buffer.handle(Tick(), 10.0) == [
        Overdue(late, abandoned=not closes),
        CloseStep(0, ("a", "b")) if closes else Abandon(reason),
    ]


def test_a_buffer_that_one_learner_fills_goes_on_as_long_as_it_sends_and_is_then_given_up_with_advice() -> (
    None
):
    buffer = begun(buffer_of(plan_of(parts=1, quorum=4, target=4)))
    for turn, now in enumerate((7.0, 14.0)):
        buffer.handle(Accepted("a", turn), now)
        assert buffer.handle(Tick(), 10.0 * (turn + 1)) == [Overdue(frozenset(), abandoned=False)]
    assert buffer.deadline == 30.0
    (late, given_up) = buffer.handle(Tick(), 30.0)
    assert (late, type(given_up)) == (Overdue(frozenset(), abandoned=True), Abandon)
    assert isinstance(given_up, Abandon)
    assert given_up.reason.startswith("2 of 4 updates in and none within 10 s, 4 are needed; ")
    assert given_up.reason.endswith(": raise cohort.deadline_s if training takes longer")


def test_a_round_that_was_given_up_leaves_no_trace() -> None:
    before = filled(begun(buffer_of(plan_of(target=1))), "a").desk
    lost = begun(buffer_of(plan_of(round_=8), before))
    lost.handle(Accepted("b", 0), 0.0)
    assert lost.handle(Deserted(), 0.0) == [Abandon("no learner is left")]
    assert lost.pending == ()
    told = lost.refusal(8, 1, "b")
    assert isinstance(told, LateUpdateError)
    assert str(told) == "round 8 was given up; wait for work"
    again = begun(buffer_of(plan_of(round_=8, target=3), Desk(before.orders, before.turns)))
    assert again.refusal(7, 0, "b") is None
    assert again.handle(Accepted("b", 0), 0.0) == [Dispatch(2, "b", 1)]


def test_a_buffer_without_learners_waits_for_the_first() -> None:
    buffer = buffer_of()
    assert buffer.handle(Begin({}), 0.0) == []
    assert buffer.pending == ()
    assert buffer.handle(Assigned("b", 5), 0.0) == [Dispatch(5, "b", 0)]
