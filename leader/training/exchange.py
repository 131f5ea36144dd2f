"""One exchange of a round: the work orders that are open and the sum their updates go into."""

from __future__ import annotations

import math
from collections.abc import Iterable

from leader.aggregation.base import Aggregator, Contribution
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.round import Round
from leader.training.inbox import Upload
from leader.training.work_ids import place_of
from protos import leader_pb2
from utils.errors import LateUpdateError, LimitError, UnknownLearnerError


class Exchange:
    """The open work of exchange `step` in `round_`, by work id, and its aggregate."""

    def __init__(
        self,
        round_: Round,
        step: int,
        orders: Iterable[tuple[Part, leader_pb2.WorkOrder]],
        aggregate: Aggregator,
    ) -> None:
        self.step = step
        self.aggregate = aggregate
        self._round = round_
        self._work = {order.work_id: (part, order) for part, order in orders}
        self._by_part = {part.id: order for part, order in self._work.values()}

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """The work order of a part."""
        return self._by_part[part]

    def owed_by(self, learner_id: int) -> list[leader_pb2.WorkOrder]:
        """Work orders that a learner has not answered yet."""
        return [self._by_part[part] for part in self._round.pending_of(learner_id)]

    def knows(self, work_id: str) -> bool:
        """Whether this is work of this exchange, done or not."""
        return work_id in self._work

    def part(self, work_id: str) -> Part:
        """The part that an update with this work id is for; raises what it must be refused with."""
        if work_id not in self._work:
            raise LateUpdateError(
                f"work{place_of(work_id)} is no longer open (round {self._round.plan.round}, "
                f"step {self.step} is); wait for new work"
            )
        part, order = self._work[work_id]
        refusal = self._round.refusal(order.round, order.step, part.id)
        if refusal is not None:
            raise refusal
        return part

    def contribution(self, member: Member, upload: Upload, part: Part) -> Contribution:
        """The upload as a weighted contribution; raises LimitError or UnknownLearnerError."""
        return contribution_of(member, upload, part, self._by_part[part.id])


def contribution_of(member: Member, upload: Upload, part: Part, order: leader_pb2.WorkOrder) -> Contribution:
    """The upload that answers `order` as a contribution; raises LimitError or UnknownLearnerError."""
    header = upload.header
    weight = part.examples if header is None else header.examples
    if not 0 < weight <= part.examples:
        raise LimitError(f"update claims {weight} examples, its part has {part.examples}")
    if part.shard is None and part.id != Part.own_id(member.name):
        raise UnknownLearnerError(f"only the owner of {part.id} may send its update")
    return Contribution(
        part.id,
        weight,
        upload.payload,
        loss=header.loss if header else math.nan,
        local_steps=order.local_steps,
        start_loss=header.start_loss if header and header.HasField("start_loss") else math.nan,
    )
