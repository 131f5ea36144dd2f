"""Orders of masked updates: which answers count, and what may not be told beside them."""

from __future__ import annotations

import math

from leader.aggregation.base import Contribution
from leader.data.part import Part
from leader.learners.membership import Member
from leader.training.exchanges.base import Admitted
from leader.training.exchanges.masked_group import MaskedGroup
from leader.training.inbox import Upload
from leader.training.open_orders import Orders
from utils.errors import LateUpdateError, PayloadError

_SAID_ALONE = (
    "examples",
    "loss",
    "seconds",
    "metrics",
    "start_loss",
)  # of a header; in masked runs only as sums


class MaskedOrders(Orders):
    """Orders whose answers count only from those that the session's masks were agreed with."""

    group: MaskedGroup

    def admit(self, member: Member, upload: Upload, work_id: str) -> Admitted:
        """See OpenOrders."""
        part = self.part_of(member.learner_id, work_id)
        return Admitted(part, self.order(part.id), masked_contribution(self.group, member, upload, part))


def masked_contribution(group: MaskedGroup, member: Member, upload: Upload, part: Part) -> Contribution:
    """A masked update of a part as what it adds to its group's sum; raises what it is refused with."""
    header = upload.header
    if header is None or not group.takes(member.name, header.session):
        raise LateUpdateError("the masks of this round were agreed on without this update; wait for new work")
    told = {field.name for field, _ in header.ListFields()}
    if not told.isdisjoint(_SAID_ALONE):
        raise PayloadError("a masked update comes without weight, loss and metrics; only their sums are told")
    return Contribution(part.id, part.examples, upload.payload, math.nan, elsewhere=upload.elsewhere)
