"""The open work of an asynchronous run: orders stay open over rounds, each round has its own sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Aggregator, Contribution
from leader.buffered import Buffer, OpenWork, Ticket
from leader.exchange import contribution_of
from leader.membership import Member
from leader.state import RunState
from leader.uploads import Upload
from leader.work import Part, WorkPlanner, place_of
from protos import leader_pb2
from utils.errors import LateUpdateError


class BufferedExchange:
    """Tickets of the buffer as work orders, by work id, and the aggregate of the round."""

    def __init__(self, planner: WorkPlanner, state: RunState, first_buffer: int, max_staleness: int) -> None:
        self._planner = planner
        self._first_buffer = first_buffer  # where the model's buffers begin in its flat vector
        self._max_staleness = max_staleness
        self._open: dict[str, OpenWork] = {}  # by part: of the last commit, and given out since
        self._work: dict[str, tuple[Part, leader_pb2.WorkOrder]] = {}
        self._by_part: dict[str, leader_pb2.WorkOrder] = {}
        self._buffers: dict[int, NDArray[np.float32]] = {}  # of recent rounds' models, by rounds committed
        self._state = state

    def begin(
        self, state: RunState, machine: Buffer, parts: Mapping[str, Part], aggregate: Aggregator
    ) -> None:
        """Open a round."""
        self._state = state
        self._open = dict(state.open_work)  # of a round that was given up nothing stays
        self._machine = machine
        self._parts = parts
        self.aggregate = aggregate
        self._buffers[state.round] = state.vector[self._first_buffer :].copy()
        for old in [round_ for round_ in self._buffers if round_ < state.round - self._max_staleness]:
            del self._buffers[old]

    def desk(self) -> dict[str, OpenWork]:
        """Open work for a checkpoint."""
        return {
            part: self._open[part]
            for part, ticket in self._machine.desk.tickets.items()
            if part in self._open
        }

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """The work order of a part's open ticket, made when it is first asked for."""
        ticket = self._machine.ticket(part)
        order = self._by_part.get(part)
        if order is not None and (ticket is None or ticket == Ticket(order.round, order.step)):
            return order
        assert ticket is not None
        kept = self._open.get(part)
        if kept is None or (kept.round, kept.turn) != (ticket.round, ticket.turn):
            kept = self._open[part] = OpenWork(ticket.round, ticket.turn, self._state.version)
        order = self._planner.ticket(self._parts[part], kept, self._max_staleness)
        if part in self._by_part:
            self._work.pop(self._by_part[part].work_id, None)
        self._by_part[part] = order
        self._work[order.work_id] = (self._parts[part], order)
        return order

    def owed_by(self, learner_id: int) -> list[leader_pb2.WorkOrder]:
        """Work orders that a learner has not answered yet."""
        return [self.order(part) for part in self._machine.pending_of(learner_id)]

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
        base, newest = self._buffers.get(order.round - 1), self._buffers[self._state.round]
        return replace(
            contribution_of(member, upload, part, order),
            part=f"{part.id}:{order.step}",  # a quick learner's part may be in the buffer twice
            staleness=staleness,
            buffers_shift=base - newest if base is not None and staleness else None,
        )
