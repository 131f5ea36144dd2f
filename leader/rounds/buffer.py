"""The buffer of an asynchronous run (FedBuff): events in, actions out; no sockets, no clock, no tensors.

Learners work at their own pace, each on an order: one part of the work, from the model of one
round. Whoever's update comes in gets a new order at once, so a slow learner holds nobody up. When
`target` updates are in, they are applied and committed as a round, and orders go on over it; one
that has become too old is given out anew. (Nguyen et al. 2022, "Federated Learning with Buffered
Asynchronous Aggregation", algorithm 1.)

Beside others a learner has no more than its share of a buffer, whatever its speed: four times an even one, at
most all but one update. An order beyond that waits until the buffer is applied, or until others that hold work
have let half of the deadline pass; these are then waited for no more until they answer.

Where updates are masked, orders are given out to a group at once, and its updates count together; see Groups.

A round that was open, or was committed, when the leader was killed follows its script first; see Script.

    SELECTING --Begin--> TRAINING --target; quorum at the deadline--> APPLYING --Applied--> COMMITTED
    COMMITTED --Begin--> TRAINING (next round)
    TRAINING --deadline without quorum, though updates have come since the last--> TRAINING (until another)
    TRAINING --deadline without quorum, or no learner left--> ABANDONED
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from leader.rounds.groups import Groups
from leader.rounds.protocol import (
    Abandon,
    Accepted,
    Action,
    Applied,
    Assigned,
    Begin,
    CloseGroup,
    CloseStep,
    Commit,
    Deserted,
    Dispatch,
    Group,
    OpenOrder,
    Outdated,
    Overdue,
    Phase,
    Remasked,
    RoundEvent,
    RoundPlan,
    Tick,
    Unmasked,
)
from leader.rounds.script import Script
from leader.rounds.shares import Shares
from utils.errors import DuplicateUpdateError, LateUpdateError, WireError


@dataclass(frozen=True)
class OpenWork:
    """An order as a checkpoint keeps it."""

    round: int  # that it was given out in
    turn: int  # its number among the part's
    version: int  # number of the model version that it starts from
    group: int = 0  # number of its masked group; 0 = in none


@dataclass(frozen=True)
class Desk:
    """What the machine hands from round to round, and a checkpoint keeps."""

    orders: Mapping[str, OpenOrder]  # open ones, by part
    turns: Mapping[str, int]  # orders given out so far, by part
    given: Mapping[str, int] = field(default_factory=dict)  # learner that each open order was given to
    late: frozenset[int | None] = frozenset()  # learners that were waited for in vain


#: Of the idle parts, which ones work next: (idle parts sorted, how many, number of orders given out so far).
Pick = Callable[[Sequence[str], int, int], Sequence[str]]


class Buffer:
    """One round of an asynchronous run, from the desk that the round before it left."""

    def __init__(
        self,
        plan: RoundPlan,
        desk: Desk,
        *,
        at_work: int,
        max_staleness: int,
        pick: Pick,
        script: Script | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.plan = plan
        self.phase = Phase.SELECTING
        self.step = 0
        self.deadline: float | None = None  # clock value at which to send a Tick
        self._at_work = at_work or len(plan.parts)
        self._max_staleness = max_staleness
        self._pick = pick
        self._script = script or Script()
        self._groups = groups or Groups()
        self._holders: dict[str, int | None] = dict.fromkeys(plan.parts)
        self.orders = self._groups.kept(desk.orders, plan.parts)  # open ones, by part
        self._turns = dict(desk.turns)
        self._given = dict(desk.given)
        self._inside: set[tuple[str, int]] = set()  # (part, turn) of the updates in the buffer
        self._target = plan.target or len(plan.parts)
        self._shares = Shares(self._target, desk.late)
        self._ends = self._since = self._now = 0.0  # clock values: deadline, last update, this event
        self._known = 0  # updates that were in at the last deadline
        self._number = self._groups.last_number(plan.round, self.orders)  # of the newest group

    @property
    def desk(self) -> Desk:
        """Open orders, for the next round or a checkpoint."""
        given = {part: self._given[part] for part in self.orders if part in self._given}
        given = {} if self._script.replayed else given  # updates that came too early are asked for again
        return Desk(dict(self.orders), dict(self._turns), given, frozenset(self._shares.late))

    def order(self, part: str) -> OpenOrder | None:
        """The open order of a part."""
        return self.orders.get(part)

    @property
    def pending(self) -> tuple[str, ...]:
        """Parts with an open order whose update is in no sum yet."""
        return self._owed if self.phase is not Phase.ABANDONED else ()

    @property
    def _owed(self) -> tuple[str, ...]:
        return tuple(part for part, one in self.orders.items() if not self._groups.has(part, one.turn))

    def pending_of(self, learner: int) -> tuple[str, ...]:
        """Parts on which `learner` has an open order."""
        return tuple(part for part in self.pending if self._holders.get(part) == learner)

    def owing(self, parts: Iterable[str] | None = None) -> frozenset[int]:
        """Learners that hold these parts; of None, with an open order."""
        holders = (self._holders.get(part) for part in (self._owed if parts is None else parts))
        return frozenset(learner for learner in holders if learner is not None)

    def counted(self, part: str, turn: int) -> bool:
        """Whether this round's buffer has the update of a part's order."""
        return (part, turn) in self._inside

    def refusal(self, round_: int, step: int, part: str) -> WireError | None:
        """Why an update can't be counted now, or None if it can; `step` is the order's turn."""
        if self.phase is Phase.ABANDONED:
            return LateUpdateError(f"round {self.plan.round} was given up; wait for work")
        if self.counted(part, step):
            return DuplicateUpdateError(
                f"this update for {part} is already counted in round {self.plan.round}"
            )
        if self.orders.get(part) != OpenOrder(round_, step):
            return LateUpdateError(
                f"work on {part} from round {round_} is no longer open in round {self.plan.round}; wait for new work"
            )
        if self._groups.has(part, step):
            return DuplicateUpdateError(f"this update for {part} is in the sum of its group already")
        if self._script.refuses(part, step, self._target - len(self._inside)):
            return DuplicateUpdateError(  # so that it is kept, and sent when the order comes again
                f"the update for {part} was not counted in round {self.plan.round} before the restart; keep it"
            )
        return None

    def handle(self, event: RoundEvent, now: float) -> list[Action]:
        """Take one event at clock value `now` (seconds) and say what to do."""
        self._now = now
        # What was given out may be open no more when all that an event brings is done.
        does = self._react(event, now)
        return [one for one in does if not isinstance(one, Dispatch) or self._is_given(one.part, one.step)]

    def _react(self, event: RoundEvent, now: float) -> list[Action]:
        training = self.phase is Phase.TRAINING
        match event:
            case Begin(holders) if self.phase is Phase.SELECTING:
                self._holders.update({part: holders.get(part) for part in self.plan.parts})
                return self._open(now)
            case Accepted(part, step) if training and self._is_given(part, step):
                return self._accept(part, step)
            case Unmasked(group, parts) if training:
                self._count(parts)
                self._end(group)
                return self._settle()
            case Remasked(group) if training:
                return [one for part in self._groups.emptied(group, self.orders) for one in self._give(part)]
            case Assigned(part, learner) if part in self._holders:
                return self._assign(part, learner)
            case Outdated(part, step) if training and self._is_given(part, step):
                self._void(part)
                return [*self._improvise(), *self._settle()]
            case Applied() if self.phase is Phase.APPLYING:
                self.phase = Phase.COMMITTED
                return [Commit()]
            case Tick() if training and self.deadline is not None and now >= self.deadline:
                if (end := self._groups.deadline) is not None and now >= end:
                    return self._fill()
                return self._expire() if now >= self._ends else self._go_on(now)
            case Deserted() if training:
                return self._abandon("no learner is left")
            case _:
                return []

    def _is_given(self, part: str, turn: int) -> bool:
        return part in self.orders and self.orders[part].turn == turn

    def _open(self, now: float) -> list[Action]:
        self.phase = Phase.TRAINING
        self._since, self._ends = now, now + self.plan.deadline_s
        stale = [p for p, one in self.orders.items() if one.round < self.plan.round - self._max_staleness]
        owing = self.owing(part for part in self._owed if part in stale)
        for part in stale:
            self._groups.ended(self.orders.pop(part).key)
        self._script.begin(self._holders)
        moved = [part for part in self.orders if self._given.get(part) != self._holders.get(part)]
        late = [Overdue(owing, False)] if owing else []
        return [*late, *(action for part in moved for action in self._give(part)), *self._fill()]

    def _give(self, part: str) -> list[Action]:
        """Hand the open order of a part to its holder, if there is one, unless a later one is in a sum.

        With the older one a learner would forget what unmasks the newest sum that it is in.
        """
        learner, order = self._holders.get(part), self.orders.get(part)
        if learner is None or order is None:
            return []
        self._given[part] = learner
        return [] if self._groups.outdone(part, order.turn) else [Dispatch(learner, part, order.turn)]

    def _fill(self) -> list[Action]:
        """New orders until enough parts are at work; those of parts that nobody holds don't count.

        Should such a part get a learner again, it goes on, and so many more are at work for a while.
        """
        actions = self._follow()
        if self.phase is not Phase.TRAINING:
            return actions
        actions += self._look_at_groups()
        self.deadline = min(self._ends, self._groups.deadline or self._ends)
        if self._script.goes_on or any(isinstance(one, CloseGroup) for one in actions):
            return actions
        size = self._groups.size_for(sum(learner is not None for learner in self._holders.values()))
        shares = self._shares.left(self._holders.values(), map(self._holders.get, self.orders))
        while idle := self._idle():
            free = [part for part in idle if shares[self._holders[part]] > 0]
            working = sum(self._holders.get(part) is not None for part in self.orders)
            count = min(self._at_work - working, len(free)) // size * size
            chosen = self._pick(free, count, sum(self._turns.values())) if count > 0 else ()
            if len(chosen) < size:
                break
            for first in range(0, len(chosen) // size * size, size):
                actions += self._give_out(chosen[first : first + size], shares)
        if any(shares[self._holders[part]] <= 0 for part in idle):
            self.deadline = min(self.deadline, self._since + self.plan.deadline_s / 2)
        return actions

    def _give_out(self, parts: Sequence[str], shares: Counter[int | None]) -> list[Action]:
        """A new order for each of these parts, which are a group where updates are masked."""
        actions: list[Action] = []
        self._number += self._groups.size > 1
        for part in parts:
            if shares[self._holders[part]] > 0:
                shares[self._holders[part]] -= 1
                turn = self._turns.get(part, 0)
                self._script.happened("given", part, turn, self._number)
                actions += self._order(part, turn, self._number)
        return actions

    def _look_at_groups(self) -> list[Action]:
        """Close a group that is ripe, and give up those of which too few updates can come."""
        actions: list[Action] = []
        while True:
            if not self._script.goes_on:
                self.orders |= (missing := self._groups.missing(self.orders))
                self._script.known(self.plan.round, missing)
            ripe = self._groups.ripe(self.orders, self._holders, self._now, self.plan.deadline_s)
            if ripe is None:
                return actions
            if ripe.parts:
                return [*actions, ripe]
            self._end(ripe.group)
            actions += self._improvise()

    def _follow(self) -> list[Action]:
        """Do again what was done before a restart, as far as the updates that it needs are in."""
        actions: list[Action] = []
        for one in self._script.follow():
            if one.what == "given":
                actions += self._order(one.part, one.turn, one.group)
            elif one.what == "closed":
                actions += self._close()
        return actions

    def _improvise(self) -> list[Action]:
        """Where the script can't be followed, go on without it."""
        return [one for part in self.orders for one in self._give(part)] if self._script.give_up() else []

    def _idle(self) -> list[str]:
        """Parts that somebody holds, and nobody works on."""
        return sorted(
            part for part, learner in self._holders.items() if learner is not None and part not in self.orders
        )

    def _order(self, part: str, turn: int, group: int) -> list[Action]:
        if part in self.orders:
            self._void(part)  # as was done before a restart
        self._turns[part] = turn + 1
        self.orders[part] = OpenOrder(self.plan.round, turn, group)
        self._number = max(self._number, group)
        if group:
            self._groups.opened((self.plan.round, group), self._now + self.plan.deadline_s)
        return self._give(part)

    def _void(self, part: str) -> None:
        """The open order of a part is open no more, and with it its group's."""
        order = self.orders.pop(part)
        if order.group:
            self._end(order.key)

    def _end(self, group: Group) -> None:
        self.orders = {part: order for part, order in self.orders.items() if order.key != group}
        self._groups.ended(group)

    def _go_on(self, now: float) -> list[Action]:
        """Wait no longer for those that hold work."""
        self._shares.late |= self.owing()
        self._since = now
        return self._fill()

    def _accept(self, part: str, turn: int) -> list[Action]:
        self._since = self._now
        if self.orders[part].group:
            self._groups.add(part, turn)
            return self._fill()
        self._count((part,))
        return self._settle()

    def _count(self, parts: Iterable[str]) -> None:
        """The updates of these parts are in the buffer."""
        for part in parts:
            turn = self.orders.pop(part).turn
            self._turns[part] = max(turn + 1, self._turns.get(part, 0))
            self._inside.add((part, turn))
            self._shares.counted(self._given.get(part))
            self._script.happened("counted", part, turn)

    def _settle(self) -> list[Action]:
        actions = self._follow()
        full = len(self._inside) >= self._target and not self._groups.recalls  # as all of these were in it
        return [*actions, *(self._close() if full and self.phase is Phase.TRAINING else self._fill())]

    def _assign(self, part: str, learner: int | None) -> list[Action]:
        moved, self._holders[part] = self._holders[part] != learner, learner
        if self.phase is not Phase.TRAINING or not moved:
            return []
        return [*self._give(part), *self._fill()]

    def _close(self) -> list[Action]:
        self.phase = Phase.APPLYING
        self.deadline = None
        return [CloseStep(0, tuple(sorted({part for part, _ in self._inside})))]

    def _expire(self) -> list[Action]:
        sent = {part for part, _ in self._inside}  # who sends may have begun its next work just now
        owing, abandoned = self.owing(set(self._owed) - sent), len(self._inside) < self.plan.quorum
        again = self._improvise()
        if not abandoned:
            self._script.happened("closed")
            return [Overdue(owing, abandoned), *again, *self._close()]
        if self.orders and len(self._inside) > self._known:  # it gets on, and would lose that
            self._known, self._ends = len(self._inside), self._now + self.plan.deadline_s
            return [Overdue(owing, False), *again, *self._fill()]
        return [Overdue(owing, abandoned), *self._abandon(_few(self.plan, len(self._inside), self._target))]

    def _abandon(self, reason: str) -> list[Action]:
        self.phase = Phase.ABANDONED
        self.deadline = None
        return [Abandon(reason)]


def _few(plan: RoundPlan, count: int, target: int) -> str:
    """Why a round is given up into which so many updates have come, of which each learner's newest can come again."""
    if not count:
        return f"0 of {target} updates in after {plan.deadline_s:g} s, {plan.quorum} are needed"
    return (
        f"{count} of {target} updates in and none within {plan.deadline_s:g} s, {plan.quorum} are needed; of those in, "
        "each learner's newest alone can count in the next attempt: raise cohort.deadline_s if training takes longer"
    )
