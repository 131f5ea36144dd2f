"""The work orders that are open, by work id: as learners ask for them, and answer them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from leader.aggregation.aggregate import MAX_LOSS
from leader.aggregation.base import Contribution
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.protocol import RoundMachine
from leader.training.exchanges.base import Admitted
from leader.training.inbox import Upload
from protos import leader_pb2
from utils.errors import LateUpdateError, LimitError

_WORK_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,9})-[0-9a-f]{32}")


#: Where else than at the leader a learner may do an order of a part.
Via = Callable[[int, Part, leader_pb2.WorkOrder], leader_pb2.Via | None]


def nowhere(learner_id: int, part: Part, order: leader_pb2.WorkOrder) -> None:
    """At the leader alone."""


def place_of(work_id: str) -> str:
    """What a work id says about where it belongs, such as " of round 3, step 0"; anybody may have made it up."""
    match = _WORK_ID.fullmatch(work_id)
    return f" of round {match[1]}, step {match[2]}" if match else ""


def round_and_step(work_id: str) -> tuple[int, int] | None:
    """Where a work id says that it belongs; None for one that was never given out."""
    match = _WORK_ID.fullmatch(work_id)
    return (int(match[1]), int(match[2])) if match else None


class Orders:
    """The orders of one exchange; `place` says which, such as "round 3, step 0".

    Without `losses_told` no loss of an update goes any further: each would tell of its learner.
    """

    _losses_told = True
    _via: Via = staticmethod(nowhere)

    def __init__(
        self,
        machine: RoundMachine,
        place: str,
        orders: Iterable[tuple[Part, leader_pb2.WorkOrder]],
        *,
        losses_told: bool = True,
        via: Via = nowhere,
    ) -> None:
        self._via = via
        self._losses_told = losses_told
        self._machine = machine
        self._place = place
        self._work = {order.work_id: (part, order) for part, order in orders}
        self._by_part = {part.id: order for part, order in self._work.values()}
        self._given: dict[str, set[int]] = {}  # learners that hold or held it, by work id

    def give(self, learner_id: int, part: str) -> leader_pb2.WorkOrder:
        """See OpenOrders."""
        order = self.order(part)
        self._given.setdefault(order.work_id, set()).add(learner_id)
        return self._with_via(learner_id, order)

    def _with_via(self, learner_id: int, order: leader_pb2.WorkOrder) -> leader_pb2.WorkOrder:
        """The order with where else than at the leader this learner may do it."""
        via = self._via(learner_id, self._work[order.work_id][0], order)
        if via is None:
            return order
        told = leader_pb2.WorkOrder()
        told.CopyFrom(order)
        told.via.CopyFrom(via)
        return told

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """See OpenOrders."""
        return self._by_part[part]

    def owed_by(self, learner_id: int) -> list[leader_pb2.WorkOrder]:
        """See OpenOrders."""
        pending = self._machine.pending_of(learner_id)
        return [self._with_via(learner_id, self.order(part)) for part in pending]

    def knows(self, work_id: str) -> bool:
        """See OpenOrders."""
        return work_id in self._work

    def part(self, work_id: str) -> Part:
        """See OpenOrders."""
        if work_id not in self._work:
            raise LateUpdateError(
                f"work{place_of(work_id)} is no longer open ({self._place} is); wait for new work"
            )
        part, order = self._work[work_id]
        if refusal := self._machine.refusal(order.round, order.step, part.id):
            raise refusal
        return part

    def part_of(self, learner_id: int, work_id: str) -> Part:
        """See OpenOrders."""
        part = self.part(work_id)
        if learner_id not in self._given.get(work_id, ()):
            raise LateUpdateError(
                f"work{place_of(work_id)} was given to another learner; wait for work of your own"
            )
        return part

    def admit(self, member: Member, upload: Upload, work_id: str) -> Admitted:
        """See OpenOrders."""
        part, header = self.part_of(member.learner_id, work_id), upload.header
        order = self._work[work_id][1]
        weight = part.examples if header is None else header.examples
        if not 0 < weight <= part.examples:
            raise LimitError(f"update claims {weight} examples, its part has {part.examples}")
        contribution = Contribution(
            part.id,
            weight,
            upload.payload,
            loss=_sound(header.loss) if header and self._losses_told else math.nan,
            local_steps=order.local_steps,
            start_loss=header.start_loss if header and header.HasField("start_loss") else math.nan,
            elsewhere=upload.elsewhere,
        )
        return Admitted(part, order, contribution)


def _sound(loss: float) -> float:
    """A loss as it is, or infinite where no float32 could be so large."""
    return loss if abs(loss) < MAX_LOSS else loss * math.inf
