from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

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
    Overdue,
    Phase,
    Reopen,
    RoundEvent,
    RoundPlan,
    Tick,
)
from leader.rounds.round import Round
from tests.leader.rounds import any_order
from tests.leader.rounds.any_order import OVER, PARTS, off_by, some_part
from utils.errors import DuplicateUpdateError, LateUpdateError


def plan_of(*, parts: int = 2, steps: int = 1, quorum: int = 1, target: int = 0) -> RoundPlan:
    return RoundPlan(round=7, steps=steps, parts=PARTS[:parts], quorum=quorum, deadline_s=10.0, target=target)


class Watched:
    """A round, and beside it what its events and actions must have come to."""

    def __init__(self, plan: RoundPlan) -> None:
        self.plan = plan
        self.round = Round(plan)
        self.now = 100.0
        self.opened = 0.0  # clock value when the open exchange began
        self.holders: dict[str, int | None] = dict.fromkeys(plan.parts)
        self.sent: Counter[str] = Counter()  # dispatches of each part to its present holder in this exchange
        self.counted: set[str] = set()
        self.left_out: set[str] = set()  # of the open exchange
        self.closed = self.applied = self.commits = self.abandons = 0

    @property
    def target(self) -> int:
        left = len(self.plan.parts) - len(self.left_out)
        return min(self.plan.target or left, left)

    @property
    def rest(self) -> set[str]:
        """Parts whose update is still wanted."""
        return set(self.plan.parts) - self.counted - self.left_out

    @property
    def enough(self) -> bool:
        """Whether waiting on would be of no use: the target is in, or a quorum and nobody does the rest."""
        rest = self.rest
        deserted = all(self.holders[part] is None for part in rest)
        return len(self.counted) >= self.plan.quorum and (deserted or len(self.counted) >= self.target)

    def feed(self, event: RoundEvent) -> list[Action]:
        """Hand the event over, then compare actions and phase with what they must be."""
        before = self.round.phase
        self._expect(event, before)
        actions = self.round.handle(event, self.now)
        for action in actions:
            self._check(action, event, before)
        if before in OVER:
            assert actions == []
            assert self.round.phase is before
        self.check()
        return actions

    def _expect(self, event: RoundEvent, before: Phase) -> None:
        match event:
            case Begin(holders) if before is Phase.SELECTING:
                self.holders = {part: holders.get(part) for part in self.plan.parts}
                self._opens()
            case Accepted(part, step) if before is Phase.TRAINING and step == self.closed:
                if part in self.rest:
                    self.counted.add(part)
            case Assigned(part, learner) if part in self.plan.parts and self.holders[part] != learner:
                self.holders[part] = learner
                self.sent[part] = 0
            case Applied() if before is Phase.APPLYING:
                self.applied += 1
                if self.applied < self.plan.steps:
                    self._opens()
            case Reopen(parts, kept) if before in (Phase.TRAINING, Phase.APPLYING):
                self.closed = self.applied  # if it was closed, it will be once more
                left_out = self.left_out | (set(self.plan.parts) - set(parts))
                self._opens()
                self.left_out = left_out
                self.counted = set(kept) - left_out

    def _opens(self) -> None:
        self.opened = self.now
        self.sent.clear()
        self.counted.clear()
        self.left_out.clear()

    def _check(self, action: Action, event: RoundEvent, before: Phase) -> None:
        match action:
            case Dispatch(learner, part, step):
                assert self.holders[part] == learner
                assert step == self.applied
                assert part not in self.counted
                self.sent[part] += 1
            case CloseStep(step, parts):
                assert step == self.closed == self.applied
                assert parts == tuple(part for part in self.plan.parts if part in self.counted)
                assert self.plan.quorum <= len(parts) <= max(self.target, self.plan.quorum)
                if isinstance(event, Tick):
                    assert self.now >= self.opened + self.plan.deadline_s
                else:
                    assert isinstance(event, Accepted | Assigned | Reopen)
                    assert self.enough
                self.closed += 1
            case Commit():
                assert self.closed == self.applied == self.plan.steps
                self.commits += 1
            case Abandon():
                assert before is Phase.TRAINING
                if isinstance(event, Tick):
                    assert self.now >= self.opened + self.plan.deadline_s
                    assert len(self.counted) < self.plan.quorum
                else:
                    assert isinstance(event, Deserted)
                self.abandons += 1

    def check(self) -> None:
        """What holds between any two events."""
        phase = self.round.phase
        assert (self.commits, self.abandons) == (phase is Phase.COMMITTED, phase is Phase.ABANDONED)
        assert (self.round.deadline is not None) == (phase is Phase.TRAINING)
        if phase is not Phase.TRAINING:
            assert self.round.pending == ()
            return
        assert self.round.deadline == self.opened + self.plan.deadline_s
        assert not self.enough  # else it should have closed
        assert set(self.round.pending) == self.rest
        for part in self.round.pending:
            assert self.sent[part] == (self.holders[part] is not None)
        for learner in (1, 2, 3):
            held = tuple(part for part in self.round.pending if self.holders[part] == learner)
            assert self.round.pending_of(learner) == held
        for part in self.plan.parts:
            refusal = self.round.refusal(self.plan.round, self.round.step, part)
            assert isinstance(refusal, DuplicateUpdateError) == (part in self.counted)
            assert isinstance(refusal, LateUpdateError) == (part in self.left_out)

    def run_out(self) -> None:
        """Nothing but the clock and finished steps from here on: the round must end."""
        for _ in range(2 * self.plan.steps + 2):
            if self.round.phase is Phase.SELECTING:
                self.feed(Begin({}))
            self.now = self.round.deadline or self.now
            self.feed(Applied() if self.round.phase is Phase.APPLYING else Tick())
        assert self.round.phase in OVER


plans = st.integers(1, 4).flatmap(
    lambda parts: st.integers(1, parts).flatmap(
        lambda target: st.builds(
            plan_of,
            parts=st.just(parts),
            steps=st.integers(1, 3),
            quorum=st.integers(1, target),
            target=st.sampled_from([0, target]),
        )
    )
)


class AnyOrder(any_order.AnyOrder):
    """Every event at any time, also those that make no sense."""

    watched: Watched

    @initialize(plan=plans)
    def plan(self, plan: RoundPlan) -> None:
        self.watched = Watched(plan)

    @rule(holders=st.dictionaries(some_part, st.integers(1, 3)))
    def begin(self, holders: dict[str, int]) -> None:
        self.watched.feed(Begin(holders))

    @rule(part=some_part, off=off_by)
    def accepted(self, part: str, off: int) -> None:
        self.watched.feed(Accepted(part, self.watched.round.step + off))

    @rule(without=st.sets(st.sampled_from(PARTS), max_size=2), kept=st.sets(st.sampled_from(PARTS)))
    def begun_anew(self, without: set[str], kept: set[str]) -> None:
        parts = tuple(part for part in self.watched.plan.parts if part not in without)
        counted = self.watched.counted
        self.watched.feed(Reopen(parts, tuple(sorted(kept & counted))))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def random_event(watched: Watched, draw: random.Random) -> RoundEvent:
    part = draw.choice(PARTS)
    kind = draw.random()
    if kind < 0.45:
        return Accepted(part, watched.round.step + (draw.random() < 0.1))
    if kind < 0.7:
        return Assigned(part, draw.choice((None, 1, 2, 3)))
    if kind < 0.85:
        return Applied()
    if kind < 0.9:
        return Begin({part: draw.randint(1, 3) for part in PARTS if draw.random() < 0.8})
    if kind < 0.91:
        return Deserted()
    if kind < 0.93:
        kept = tuple(sorted(part for part in watched.counted if draw.random() < 0.3))
        return Reopen(tuple(part for part in PARTS if draw.random() < 0.8), kept)
    watched.now += draw.choice((0.0, 1.0, 5.0, 10.0))
    return Tick()


def test_ten_thousand_random_event_orders_break_no_rule_and_all_end() -> None:
    draw = random.Random(0)
    ends: Counter[Phase] = Counter()
    orders = set()
    for _ in range(12_000):
        target = draw.randint(1, 4)
        plan = plan_of(parts=4, steps=draw.randint(1, 3), quorum=draw.randint(1, target), target=target)
        watched = Watched(plan)
        events: list[RoundEvent] = [Begin({part: draw.randint(1, 3) for part in PARTS})]
        watched.feed(events[0])
        for _ in range(25):
            events.append(random_event(watched, draw))
            watched.feed(events[-1])
        ends[watched.round.phase] += 1
        orders.add((plan, repr(events)))
        watched.run_out()
    assert len(orders) > 10_000
    assert min(ends[phase] for phase in (*OVER, Phase.TRAINING, Phase.APPLYING)) > 300


# --- single rules, told as stories ---------------------------------------------------------


def begun(plan: RoundPlan, holders: dict[str, int] | None = None) -> Round:
    round_ = Round(plan)
    round_.handle(Begin(dict.fromkeys(PARTS, 1) if holders is None else holders), 0.0)
    return round_


def test_a_round_of_two_exchanges() -> None:
    round_ = Round(plan_of(steps=2))
    assert round_.handle(Begin({"a": 1, "b": 2, "z": 3}), 0.0) == [Dispatch(1, "a", 0), Dispatch(2, "b", 0)]
    assert round_.handle(Accepted("b", 0), 1.0) == []
    assert round_.handle(Accepted("a", 0), 2.0) == [CloseStep(0, ("a", "b"))]
    assert round_.handle(Applied(), 3.0) == [Dispatch(1, "a", 1), Dispatch(2, "b", 1)]
    assert round_.deadline == 13.0
    assert round_.handle(Accepted("a", 1), 4.0) == []
    assert round_.handle(Accepted("b", 1), 5.0) == [CloseStep(1, ("a", "b"))]
    assert round_.handle(Applied(), 6.0) == [Commit()]
    assert round_.phase is Phase.COMMITTED


def test_over_selection_closes_at_the_target_and_refuses_the_rest() -> None:
    round_ = begun(plan_of(parts=4, target=2))
    assert round_.handle(Accepted("d", 0), 1.0) == []
    assert round_.handle(Accepted("b", 0), 1.0) == [CloseStep(0, ("b", "d"))]
    assert isinstance(round_.refusal(7, 0, "a"), LateUpdateError)
    assert round_.handle(Accepted("a", 0), 1.0) == []


def test_the_deadline_closes_on_a_quorum_and_not_a_moment_before() -> None:
    round_ = begun(plan_of(parts=3, quorum=2))
    round_.handle(Accepted("a", 0), 1.0)
    round_.handle(Accepted("c", 0), 1.0)
    assert round_.handle(Tick(), 9.99) == []
    assert round_.handle(Tick(), 10.0) == [Overdue(frozenset({1}), False), CloseStep(0, ("a", "c"))]


def test_the_deadline_without_a_quorum_abandons_and_says_what_is_missing() -> None:
    round_ = begun(plan_of(parts=3, quorum=2))
    round_.handle(Accepted("b", 0), 1.0)
    assert round_.handle(Tick(), 10.0) == [
        Overdue(frozenset({1}), True),
        Abandon("1 of 3 updates in after 10 s, 2 are needed; missing: a, c"),
    ]
    assert round_.phase is Phase.ABANDONED


def test_a_quorum_closes_the_exchange_once_nobody_can_do_the_rest() -> None:
    round_ = begun(plan_of(parts=3, quorum=1), {"a": 1, "b": 2, "c": 3})
    assert round_.handle(Assigned("b", None), 1.0) == []
    assert round_.handle(Accepted("a", 0), 1.0) == []
    assert round_.handle(Assigned("c", None), 2.0) == [CloseStep(0, ("a",))]


def test_below_the_quorum_parts_that_nobody_can_do_are_waited_for() -> None:
    round_ = begun(plan_of(parts=3, quorum=2), {"a": 1})
    assert round_.handle(Accepted("a", 0), 1.0) == []
    assert round_.handle(Assigned("b", 1), 2.0) == [Dispatch(1, "b", 0)]
    assert round_.handle(Accepted("b", 0), 3.0) == [CloseStep(0, ("a", "b"))]


def test_a_part_that_moves_is_dispatched_to_its_new_holder_once() -> None:
    round_ = begun(plan_of(), {"a": 1, "b": 1})
    assert round_.handle(Assigned("a", 1), 1.0) == []
    assert round_.handle(Assigned("a", None), 1.0) == []
    assert round_.handle(Assigned("a", 2), 1.0) == [Dispatch(2, "a", 0)]
    assert round_.handle(Assigned("a", 2), 1.0) == []
    assert (round_.pending_of(1), round_.pending_of(2)) == (("b",), ("a",))


def test_a_part_that_is_counted_moves_without_a_dispatch() -> None:
    round_ = begun(plan_of(steps=2), {"a": 1, "b": 1})
    round_.handle(Accepted("a", 0), 1.0)
    assert round_.handle(Assigned("a", 2), 1.0) == []
    round_.handle(Accepted("b", 0), 1.0)
    assert round_.handle(Assigned("b", 3), 1.0) == []
    assert round_.handle(Applied(), 1.0) == [Dispatch(2, "a", 1), Dispatch(3, "b", 1)]


def test_an_exchange_that_begins_anew_without_a_part_closes_on_the_others() -> None:
    round_ = begun(plan_of(parts=3, quorum=2, steps=2), {"a": 1, "b": 2, "c": 3})
    round_.handle(Accepted("a", 0), 1.0)
    round_.handle(Accepted("b", 0), 1.0)
    assert round_.handle(Tick(), 10.0) == [Overdue(frozenset({3}), False), CloseStep(0, ("a", "b"))]
    assert round_.handle(Reopen(("a", "b")), 11.0) == [Dispatch(1, "a", 0), Dispatch(2, "b", 0)]
    assert (round_.phase, round_.deadline, round_.pending) == (Phase.TRAINING, 21.0, ("a", "b"))
    late = round_.refusal(7, 0, "c")
    assert isinstance(late, LateUpdateError)
    assert "round 7, step 0 was begun anew without c" in str(late)
    assert round_.handle(Accepted("c", 0), 12.0) == []
    assert round_.handle(Accepted("b", 0), 12.0) == []
    assert round_.handle(Accepted("a", 0), 12.0) == [CloseStep(0, ("a", "b"))]
    # In the next exchange it takes part again.
    assert Dispatch(3, "c", 1) in round_.handle(Applied(), 13.0)
    assert round_.refusal(7, 1, "c") is None


def test_an_exchange_that_begins_anew_keeps_what_it_is_told_to() -> None:
    round_ = begun(plan_of(parts=3, quorum=1), {"a": 1, "b": 2, "c": 3})
    round_.handle(Accepted("a", 0), 1.0)
    round_.handle(Accepted("b", 0), 1.0)
    assert round_.handle(Assigned("a", 2), 1.0) == []  # moves while it is counted
    assert round_.handle(Reopen(PARTS[:3], ("b",)), 2.0) == [Dispatch(2, "a", 0), Dispatch(3, "c", 0)]
    assert round_.pending == ("a", "c")


def test_an_exchange_that_begins_anew_with_all_that_it_keeps_closes_at_once() -> None:
    round_ = begun(plan_of(parts=3, quorum=1), {"a": 1, "b": 2})
    round_.handle(Accepted("a", 0), 1.0)
    assert round_.handle(Reopen(("a",), ("a",)), 2.0) == [CloseStep(0, ("a",))]


def test_below_the_quorum_an_exchange_that_began_anew_is_given_up_at_its_deadline() -> None:
    round_ = begun(plan_of(parts=2, quorum=2), {"a": 1, "b": 2})
    round_.handle(Reopen(("a",)), 2.0)
    assert round_.handle(Accepted("a", 0), 3.0) == []
    # What was left out is owed by nobody.
    late, given_up = round_.handle(Tick(), 12.0)
    assert (late, type(given_up)) == (Overdue(frozenset(), True), Abandon)


def test_a_round_that_is_over_does_not_begin_anew() -> None:
    round_ = begun(plan_of())
    round_.handle(Deserted(), 1.0)
    assert round_.handle(Reopen(("a",)), 2.0) == []
    assert round_.phase is Phase.ABANDONED


def test_a_round_that_nobody_can_work_on_is_given_up_at_once() -> None:
    round_ = begun(plan_of())
    assert round_.handle(Deserted(), 1.0) == [Abandon("no learner is left")]
    assert round_.handle(Deserted(), 1.0) == []


@pytest.mark.parametrize(
    ("round_number", "step", "part", "kind", "message"),
    [
        (6, 0, "a", LateUpdateError, "update is for round 6, step 0, but round 7, step 0 is open"),
        (7, 1, "a", LateUpdateError, "update is for round 7, step 1, but round 7, step 0 is open"),
        (7, 0, "d", LateUpdateError, "update for d is not part of round 7, step 0"),
        (7, 0, "b", DuplicateUpdateError, "update for b is already counted in round 7, step 0"),
    ],
)
def test_an_update_is_refused_for_what_is_wrong_with_it(
    round_number: int, step: int, part: str, kind: type[Exception], message: str
) -> None:
    round_ = begun(plan_of())
    round_.handle(Accepted("b", 0), 1.0)
    refusal = round_.refusal(round_number, step, part)
    assert type(refusal) is kind
    assert message in str(refusal)
    assert round_.refusal(7, 0, "a") is None


def test_before_a_round_begins_nothing_is_counted() -> None:
    round_ = Round(plan_of())
    assert isinstance(round_.refusal(7, 0, "a"), LateUpdateError)
    assert round_.handle(Accepted("a", 0), 0.0) == []
    assert round_.handle(Tick(), 1e9) == []
    assert round_.phase is Phase.SELECTING
