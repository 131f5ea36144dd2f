"""Receipts of edges, as the updates that they stand for: who may send one is its ticket's to say."""

from __future__ import annotations

import math

import numpy as np

from leader.aggregation.base import Elsewhere
from leader.distributed.ticket import unseal
from leader.evaluation.federated import check_metrics
from leader.learners.workforce import Workforce
from leader.training.inbox import Upload
from leader.training.work_desk import WorkDesk
from protos import edge_pb2
from utils.errors import PayloadError, UnknownLearnerError
from utils.wire.payload import Manifest, Payload


class Receipts:
    """Has updates counted whose values an edge has."""

    def __init__(self, run_id: str, key: bytes, workforce: Workforce, desk: WorkDesk) -> None:
        """`key` is what tickets are signed with."""
        self._run_id = run_id
        self._key = key
        self._workforce = workforce
        self._desk = desk

    async def take(self, receipt: edge_pb2.Receipt) -> None:
        """Returns when the update counts; raises the WireError that it is refused with."""
        ticket, header = unseal(self._key, receipt.ticket, self._run_id), receipt.header
        member = self._workforce.get(ticket.learner_id)
        if member is None:
            raise UnknownLearnerError("the learner of this update is registered no more; register again")
        if header.work_id != ticket.work_id:
            raise PayloadError("the update is for other work than its ticket")
        if not 0 <= receipt.squared_norm < math.inf:
            raise PayloadError(f"the receipt tells a squared norm of {receipt.squared_norm:g}")
        check_metrics(header, 0)
        empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), header.crc32)
        elsewhere = Elsewhere(receipt.uid, receipt.squared_norm, receipt.buffers)
        await self._desk.submit(member, Upload(header, empty, receipt.size, elsewhere), ticket.work_id)
