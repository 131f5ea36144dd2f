"""What an exchange is: work orders that are open, a sum that their updates go into, and what closing it comes to.

The coordinator opens, feeds and closes exchanges and never asks which kind it has. A kind of its own is a value of
`ExchangeKind` and the `OpenExchange` that it opens; `leader/training/exchanges/kinds.py` has those that there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from leader.aggregation.base import Contribution, Result
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.buffer import OpenWork
from leader.rounds.protocol import Applied, CloseGroup, Reopen, RoundEvent, RoundMachine
from leader.state import RunState
from leader.training.exchanges.pipeline import PieceStreams
from leader.training.inbox import Submission, Upload
from protos import leader_pb2
from utils.errors import PayloadError


@dataclass(frozen=True)
class Admitted:
    """An update that answers an open work order, as what it would add to the sum."""

    part: Part
    order: leader_pb2.WorkOrder
    contribution: Contribution


@dataclass(frozen=True)
class Recalled:
    """An update that is known from a file alone."""

    learner_id: int
    part: Part
    contribution: Contribution


@dataclass(frozen=True)
class Closed:
    """What closing an exchange came to."""

    event: Applied | Reopen  # for the round machine
    result: Result | None = None  # of the step, if one was made
    recalled: tuple[Recalled, ...] = ()  # updates in it that came before the leader was started


@dataclass(frozen=True)
class Unfinished:
    """Work that goes on over the end of a round, as a checkpoint keeps it."""

    open_work: Mapping[str, OpenWork] = field(default_factory=dict)  # by part
    turns: Mapping[str, int] = field(default_factory=dict)  # work given out so far, by part


class OpenOrders(Protocol):
    """The work orders that are open, as learners ask for them and answer them."""

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """The open work order of a part."""
        ...

    def give(self, learner_id: int, part: str) -> leader_pb2.WorkOrder:
        """The open work order of a part, which this learner may answer from now on."""
        ...

    def part_of(self, learner_id: int, work_id: str) -> Part:
        """The part of an order that this learner was given; raises what its update must be refused with."""
        ...

    def owed_by(self, learner_id: int) -> list[leader_pb2.WorkOrder]:
        """Work orders that a learner has not answered yet."""
        ...

    def knows(self, work_id: str) -> bool:
        """Whether this is work of the exchange, whatever has become of it."""
        ...

    def part(self, work_id: str) -> Part:
        """The part that an update with this work id is for; raises the WireError that it must be refused with."""
        ...

    def admit(self, member: Member, upload: Upload, work_id: str) -> Admitted:
        """The upload as what it would add; raises what `part_of` raises, or LimitError."""
        ...


class OpenExchange(Protocol):
    """One round's exchanges, one after the other, from the round's beginning to its end."""

    @property
    def machine(self) -> RoundMachine:
        """Says who is asked for what, and when an exchange closes."""
        ...

    @property
    def orders(self) -> OpenOrders:
        """The work that is open."""
        ...

    @property
    def state(self) -> RunState:
        """The committed state with the steps of the exchanges that have closed."""
        ...

    @property
    def learners(self) -> int:
        """How many learners have work in the round."""
        ...

    def holders(self) -> Mapping[str, int]:
        """Which learner does which part, of those that may be asked."""
        ...

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """Add an update, or a piece of one; what the machine is to hear of it.

        `counted` is called once it is certain that the update counts. Raises the WireError that the update
        is refused with; then nothing has changed.
        """
        ...

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """Make exchange `step`, of which the updates of `parts` are in, a step of the model, and serve that.

        The round's next exchange is open when this returns.
        """
        ...

    def unfinished(self) -> Unfinished:
        """What stays open when the round is committed."""
        ...

    def end(self) -> OpenExchange | None:
        """The round is over, committed or not: give back what it holds; the exchange, if its work stays open."""
        ...


def unmasked(member: Member, message: leader_pb2.MaskUp) -> None:
    """Where updates are not masked: raises PayloadError."""
    raise PayloadError("updates of this run are not masked")


async def not_grouped(action: CloseGroup) -> RoundEvent:
    """Where no group is ever closed."""
    raise AssertionError(action)


@dataclass(frozen=True)
class ExchangeKind:
    """How a run exchanges."""

    open: Callable[[RunState], OpenExchange]  # the round after a state
    #: After the last round: an exchange that makes no step, in which learners score its model; None where none can be.
    scoring: Callable[[RunState], OpenExchange] | None = None
    streams: PieceStreams | None = None  # where streams bring updates in pieces; None if all come whole
    end: Callable[[], None] = lambda: None  # the run is over
    begin: Callable[[RunState], None] = lambda state: None  # the run begins, or goes on from a state
    stop: Callable[[], None] = lambda: None  # it is to end: learners are waited for no more
    #: Clock value at which `tick` is to be called, beside the round machine's own deadline.
    deadline: Callable[[], float | None] = lambda: None
    tick: Callable[[], None] = lambda: None
    #: Parts that are left in the open sum, where some that were counted are lost; asked when learners have changed.
    left: Callable[[], tuple[str, ...] | None] = lambda: None
    #: Begin anew what can't come to its end any more; what the round machine is to hear. When learners have changed.
    revive: Callable[[], RoundEvent | None] = lambda: None
    #: A learner says something in a session of secure aggregation, or its connection is open again.
    masked: Callable[[Member, leader_pb2.MaskUp], None] = unmasked
    returned: Callable[[Member], None] = lambda member: None
    #: Take the masks off the sum of a group; what the round machine is to hear.
    unmask: Callable[[CloseGroup], Awaitable[RoundEvent]] = not_grouped
