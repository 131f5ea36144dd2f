"""The open work of an asynchronous run: orders stay open over rounds, each round has its own sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Aggregator, Contribution
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.buffer import Buffer, OpenWork, Ticket
from leader.state import RunState
from leader.training.exchange import contribution_of
from leader.training.inbox import Upload
from leader.training.work_ids import place_of
from leader.training.work_orders import WorkPlanner
from protos import leader_pb2
from utils.errors import LateUpdateError

T = TypeVar("T")


class BufferedExchange:
    """Tickets of the buffer as work orders, by work id, and the aggregate of the round."""

    def __init__(self, planner: WorkPlanner, state: RunState, first_buffer: int, max_staleness: int) -> None:
        self._planner = planner
        self._first_buffer = first_buffer  # where the model's buffers begin in its flat vector
        self._max_staleness = max_staleness
        self._work: dict[str, tuple[Part, leader_pb2.WorkOrder]] = {}  # open, or counted in this round
        self._by_part: dict[str, leader_pb2.WorkOrder] = {}
        #: By the round whose work starts from them: model versions, and buffers of those models.
        self._versions = {work.round: work.version for work in state.open_work.values()}
        self._buffers: dict[int, NDArray[np.float32]] = {}  # none from before a restart

    def begin(
        self, state: RunState, machine: Buffer, parts: Mapping[str, Part], aggregate: Aggregator
    ) -> None:
        """Open a round."""
        self._machine = machine
        self._parts = parts
        self.aggregate = aggregate
        tickets = machine.desk.tickets
        self._by_part = {
            part: order
            for part, order in self._by_part.items()
            if tickets.get(part) == Ticket(order.round, order.step)
        }
        self._work = {order.work_id: (parts[part], order) for part, order in self._by_part.items()}
        needed = {ticket.round for ticket in tickets.values()}
        self._versions = _only(needed, self._versions) | {machine.plan.round: state.version}
        buffers = state.vector[self._first_buffer :].copy()
        self._buffers = _only(needed, self._buffers) | {machine.plan.round: buffers}

    def desk(self) -> dict[str, OpenWork]:
        """Open work for a checkpoint."""
        return {part: self._kept(ticket) for part, ticket in self._machine.desk.tickets.items()}

    def _kept(self, ticket: Ticket) -> OpenWork:
        return OpenWork(ticket.round, ticket.turn, self._versions[ticket.round])

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """The work order of a part's open ticket, made when it is first asked for."""
        ticket = self._machine.ticket(part)
        assert ticket is not None
        order = self._by_part.get(part)
        if order is not None and ticket == Ticket(order.round, order.step):
            return order
        if order is not None and not self._machine.counted(part, order.step):
            del self._work[order.work_id]
        order = self._planner.ticket(self._parts[part], self._kept(ticket), self._max_staleness)
        self._by_part[part] = order
        self._work[order.work_id] = (self._parts[part], order)
        return order

    def owed_by(self, learner_id: int) -> list[leader_pb2.WorkOrder]:
        """Work orders that a learner has not answered yet."""
        return [self.order(part) for part in self._machine.pending_of(learner_id)]

    def knows(self, work_id: str) -> bool:
        """Whether this is open work, or was counted in this round."""
        return work_id in self._work

    def part(self, work_id: str) -> Part:
        """The part that an update with this work id is for; raises what it must be refused with."""
        if work_id not in self._work:
            raise LateUpdateError(
                f"work{place_of(work_id)} is no longer open (round {self._machine.plan.round} is); "
                "wait for new work"
            )
        part, order = self._work[work_id]
        refusal = self._machine.refusal(order.round, order.step, part.id)
        if refusal is not None:
            raise refusal
        return part

    def contribution(self, member: Member, upload: Upload, part: Part) -> Contribution:
        """The upload as a contribution with its staleness; raises LimitError or UnknownLearnerError."""
        order = self._by_part[part.id]
        staleness = self._machine.plan.round - order.round
        base, newest = self._buffers.get(order.round), self._buffers[self._machine.plan.round]
        return replace(
            contribution_of(member, upload, part, order),
            part=f"{part.id}:{order.step}",  # a quick learner's part may be in the buffer twice
            staleness=staleness,
            buffers_shift=base - newest if base is not None and staleness else None,
        )


def _only(needed: Collection[int], by_round: Mapping[int, T]) -> dict[int, T]:
    return {round_: value for round_, value in by_round.items() if round_ in needed}
