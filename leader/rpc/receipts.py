"""Receipts of edges, as the updates that they stand for: who may send one is its ticket's to say."""

from __future__ import annotations

import asyncio
import logging
import math

import numpy as np

from leader.aggregation.base import Elsewhere
from leader.distributed.ticket import unseal
from leader.evaluation.federated import check_metrics
from leader.learners.membership import Member
from leader.learners.workforce import Workforce
from leader.training.inbox import Upload
from leader.training.work_desk import WorkDesk
from leader.update_log.recall import Recall
from protos import edge_pb2, leader_pb2
from utils import faults
from utils.errors import PayloadError, UnknownLearnerError, WireError
from utils.wire.payload import Manifest, Payload

_log = logging.getLogger(__name__)


class Receipts:
    """Has updates counted whose values an edge or the log has."""

    def __init__(
        self, run_id: str, key: bytes, workforce: Workforce, desk: WorkDesk, recall: Recall | None = None
    ) -> None:
        """`key` is what tickets are signed with, `recall` what the log has since before the leader was started."""
        self._run_id = run_id
        self._key = key
        self._workforce = workforce
        self._desk = desk
        self._recall = recall
        self._recounting: dict[str, asyncio.Task[None]] = {}  # by work id

    async def take(self, receipt: edge_pb2.Receipt) -> None:
        """Returns when the update counts; raises the WireError that it is refused with."""
        ticket = unseal(self._key, receipt.ticket, self._run_id)
        faults.reach("leader.receipt", ticket.round)
        member = self._workforce.get(ticket.learner_id)
        if member is None:
            raise UnknownLearnerError("the learner of this update is registered no more; register again")
        if receipt.header.work_id != ticket.work_id:
            raise PayloadError("the update is for other work than its ticket")
        await self._submit(member, receipt)

    async def _submit(self, member: Member, receipt: edge_pb2.Receipt) -> None:
        header = receipt.header
        if not 0 <= receipt.squared_norm < math.inf:
            raise PayloadError(f"the receipt tells a squared norm of {receipt.squared_norm:g}")
        check_metrics(header, 0)
        empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), header.crc32)
        elsewhere = Elsewhere(receipt.uid, receipt.squared_norm, receipt.buffers)
        await self._desk.submit(member, Upload(header, empty, receipt.size, elsewhere), header.work_id)

    def answered(self, member: Member, order: leader_pb2.WorkOrder) -> bool:
        """Whether the log has the update of an order: then it counts in a moment, or the order is pushed after all."""
        work_id = order.work_id
        receipt = self._recall.take(work_id) if self._recall else None
        if receipt is not None:
            self._recounting[work_id] = asyncio.ensure_future(self._recount(member, order, receipt))
        return work_id in self._recounting

    async def _recount(self, member: Member, order: leader_pb2.WorkOrder, receipt: edge_pb2.Receipt) -> None:
        try:
            await self._submit(member, receipt)
        except WireError as error:
            _log.debug("the update of %s in Kafka does not count: %s", member.name, error)
            if self._desk.owes(member, order.work_id):
                member.link.work(order)
        finally:
            del self._recounting[order.work_id]
