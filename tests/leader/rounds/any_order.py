"""Every event at any time, also those that make no sense: what both machines are told."""

from __future__ import annotations

from typing import Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leader.rounds.protocol import Applied, Assigned, Deserted, Phase, RoundEvent, Tick

PARTS = ("a", "b", "c", "d")
OVER = (Phase.COMMITTED, Phase.ABANDONED)
some_part = st.sampled_from((*PARTS, "unknown"))
off_by = st.sampled_from([0, 0, 0, 0, -1, 1])


class Watched(Protocol):
    """A machine under watch, at the time `now`."""

    now: float

    def feed(self, event: RoundEvent) -> object:
        """Hand an event on, and look at what comes of it."""

    def check(self) -> None:
        """Assert what must hold at any time."""

    def run_out(self) -> None:
        """Let time go by until the machine must have ended."""


class AnyOrder(RuleBasedStateMachine):
    """The events of both machines; `watched` is made by an initialize rule."""

    watched: Watched

    @rule(part=some_part, learner=st.none() | st.integers(1, 3))
    def assigned(self, part: str, learner: int | None) -> None:
        self.watched.feed(Assigned(part, learner))

    @rule()
    def applied(self) -> None:
        self.watched.feed(Applied())

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.9, 10.0]))
    def tick(self, seconds: float) -> None:
        self.watched.now += seconds
        self.watched.feed(Tick())

    @rule(really=st.integers(0, 9))
    def deserted(self, really: int) -> None:
        if really == 9:
            self.watched.feed(Deserted())

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "watched"):
            self.watched.check()

    def teardown(self) -> None:
        if hasattr(self, "watched"):
            self.watched.run_out()
