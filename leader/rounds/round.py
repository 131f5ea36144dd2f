"""The round: events in, actions out; no sockets, no clock, no tensors.

A round is made of exchanges (steps): one for deltas, several for gradients. In each exchange
every part of the work (a shard, or a learner's own data) is dispatched to the learner that holds
it, and the exchange closes when enough parts are in. A part may move to another learner at any
time; its update is the same whoever makes it, and is counted once.

    SELECTING --Begin--> TRAINING --target; quorum at the deadline, or when nobody can do the rest--> APPLYING
    APPLYING --Applied--> TRAINING (next exchange) | COMMITTED (last one)
    TRAINING or APPLYING --Reopen--> TRAINING (the same exchange, perhaps with fewer parts)
    TRAINING --deadline without quorum, or no learner left--> ABANDONED
"""

from __future__ import annotations

from collections.abc import Collection

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
from utils.errors import DuplicateUpdateError, LateUpdateError, WireError


class Round:
    """One round's state machine."""

    def __init__(self, plan: RoundPlan, kept: Collection[str] = ()) -> None:
        """`kept` are parts whose updates are in the first exchange's sum already, which takes no others then."""
        self.plan = plan
        self._kept = kept
        self.phase = Phase.SELECTING
        self.step = 0
        self.deadline: float | None = None  # clock value at which to send a Tick
        self._holders: dict[str, int | None] = dict.fromkeys(plan.parts)
        self._done: set[str] = set()
        self._left_out: frozenset[str] = frozenset()  # of the open exchange, since it began anew
        self._target = plan.target or len(plan.parts)

    @property
    def pending(self) -> tuple[str, ...]:
        """Parts of the open exchange that are not in yet."""
        if self.phase is not Phase.TRAINING:
            return ()
        settled = self._done | self._left_out
        return tuple(part for part in self.plan.parts if part not in settled)

    def pending_of(self, learner: int) -> tuple[str, ...]:
        """Parts of the open exchange that `learner` still owes."""
        return tuple(part for part in self.pending if self._holders[part] == learner)

    def refusal(self, round_: int, step: int, part: str) -> WireError | None:
        """Why an update can't be counted now, or None if it can."""
        here = f"round {self.plan.round}, step {self.step}"
        if (round_, step) != (self.plan.round, self.step):
            return LateUpdateError(
                f"update is for round {round_}, step {step}, but {here} is open; fetch new work"
            )
        if part not in self._holders:
            return LateUpdateError(f"update for {part} is not part of {here}; fetch new work")
        if part in self._done:
            return DuplicateUpdateError(f"update for {part} is already counted in {here}")
        if part in self._left_out:
            return LateUpdateError(f"{here} was begun anew without {part}; fetch new work")
        if self.phase is not Phase.TRAINING:
            return LateUpdateError(f"{here} has closed; fetch new work")
        return None

    def handle(self, event: RoundEvent, now: float) -> list[Action]:
        """Take one event at clock value `now` (seconds) and say what to do."""
        match event:
            case Begin(holders) if self.phase is Phase.SELECTING:
                self._holders.update({part: holders.get(part) for part in self.plan.parts})
                return self._open(now)
            case Accepted(part, step) if self.refusal(self.plan.round, step, part) is None:
                self._done.add(part)
                return self._close_if_enough()
            case Assigned(part, learner) if part in self._holders:
                return self._assign(part, learner)
            case Applied() if self.phase is Phase.APPLYING:
                return self._advance(now)
            case Tick() if (
                self.phase is Phase.TRAINING and self.deadline is not None and now >= self.deadline
            ):
                return self._expire()
            case Reopen(parts, kept) if self.phase in (Phase.TRAINING, Phase.APPLYING):
                return self._reopen(parts, kept, now)
            case Deserted() if self.phase is Phase.TRAINING:
                return self._abandon("no learner is left")
            case _:
                return []

    def _open(self, now: float) -> list[Action]:
        self._left_out = frozenset()
        self._done, self._kept = set(self._kept), ()
        return self._close() if self._done else self._train(now)

    def _reopen(self, parts: tuple[str, ...], kept: tuple[str, ...], now: float) -> list[Action]:
        self._left_out |= frozenset(self.plan.parts).difference(parts)
        self._done = set(kept) - self._left_out
        # Who lost a part may have been given it while it was counted, so everybody is told again.
        return self._train(now) + self._close_if_enough()

    def _train(self, now: float) -> list[Action]:
        self.phase = Phase.TRAINING
        self.deadline = now + self.plan.deadline_s
        pending = self.pending
        return [
            Dispatch(learner, part, self.step)
            for part, learner in self._holders.items()
            if learner is not None and part in pending
        ]

    def _close(self) -> list[Action]:
        self.phase = Phase.APPLYING
        self.deadline = None
        return [CloseStep(self.step, tuple(part for part in self.plan.parts if part in self._done))]

    def _assign(self, part: str, learner: int | None) -> list[Action]:
        moved = self._holders[part] != learner
        self._holders[part] = learner
        if moved and learner is not None and part in self.pending:
            return [Dispatch(learner, part, self.step)]
        return self._close_if_enough()

    def _close_if_enough(self) -> list[Action]:
        """Close when the target is reached, or when the quorum is and nobody can do the rest."""
        if self.phase is not Phase.TRAINING or len(self._done) < self.plan.quorum:
            return []
        target = min(self._target, len(self.plan.parts) - len(self._left_out))
        if len(self._done) >= target or all(self._holders[part] is None for part in self.pending):
            return self._close()
        return []

    def _advance(self, now: float) -> list[Action]:
        if self.step + 1 == self.plan.steps:
            self.phase = Phase.COMMITTED
            return [Commit()]
        self.step += 1
        return self._open(now)

    def _expire(self) -> list[Action]:
        late = frozenset(learner for part in self.pending if (learner := self._holders[part]) is not None)
        abandoned = len(self._done) < self.plan.quorum
        return [Overdue(late, abandoned), *(self._give_up() if abandoned else self._close())]

    def _give_up(self) -> list[Action]:
        missing = ", ".join(part for part in self.plan.parts if part not in self._done)
        return self._abandon(
            f"{len(self._done)} of {len(self.plan.parts)} updates in after {self.plan.deadline_s:g} s, "
            f"{self.plan.quorum} are needed; missing: {missing}"
        )

    def _abandon(self, reason: str) -> list[Action]:
        self.phase = Phase.ABANDONED
        self.deadline = None
        return [Abandon(reason)]
