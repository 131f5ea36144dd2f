"""Receipts that stand in the log when a leader goes on with a run: its open sum goes on too, and nothing is sent again.

Edges note a sum there before its first block, so no partition has blocks of a later one than the newest that is noted:
that sum alone can go on, if the round does so too.
"""

from __future__ import annotations

import logging

from leader.distributed.messages import UID_BYTES
from leader.distributed.ticket import unseal
from leader.update_log.run_log import RunLog
from protos import edge_pb2, log_pb2
from utils.errors import PayloadError, WireError

_log = logging.getLogger(__name__)


class Recall:
    """What the leader before has left; empty where there was none."""

    def __init__(self, run_id: str, key: bytes) -> None:
        """`key` is what tickets are signed with."""
        self._run_id = run_id
        self._key = key
        self._plan = log_pb2.LogPlan()
        # By work id; the first one counts.
        self._found: dict[str, tuple[edge_pb2.Ticket, edge_pb2.Receipt]] = {}
        self._uids: frozenset[bytes] = frozenset()

    def read(self, log: RunLog, quiet_s: float) -> None:
        """Have the receipts of the newest sum; raises NotReadyError. What is wrong is logged and passed over."""
        for noted in log.noted(quiet_s):
            if noted.plan.sum > self._plan.sum:
                self._plan, self._found = noted.plan, {}
            if noted.plan == self._plan and noted.HasField("receipt"):
                try:
                    self._find(noted.receipt)
                except WireError as error:
                    _log.warning("a receipt in Kafka is passed over: %s", error)

    def _find(self, receipt: edge_pb2.Receipt) -> None:
        ticket = unseal(self._key, receipt.ticket, self._run_id)
        if len(receipt.uid) != UID_BYTES or receipt.header.work_id != ticket.work_id:
            raise PayloadError("it is for other work than its ticket, or its uid is not 16 bytes")
        self._found.setdefault(ticket.work_id, (ticket, receipt))

    def goes_on(self, opened: edge_pb2.Open, plan: log_pb2.LogPlan) -> bool:
        """Whether the sum that opens is the newest in the log, whose number `plan` gets; else what is there is void.

        As masked updates are: their masks were of a session that has ended with the leader before.
        """
        plan.sum = self._plan.sum
        places = {(ticket.round, ticket.step) for ticket, _ in self._found.values()}
        if plan.bits or plan != self._plan or places != {(opened.round, opened.step)}:
            self._found = {}
        self._plan = log_pb2.LogPlan()  # once
        self._uids = frozenset(receipt.uid for _, receipt in self._found.values())
        return bool(self._found)

    def holds(self, uid: bytes) -> bool:
        """Whether the update is one of those that count again."""
        return uid in self._uids

    def take(self, work_id: str) -> edge_pb2.Receipt | None:
        """The receipt of this work, which is given once."""
        _, receipt = self._found.pop(work_id, (None, None))
        return receipt
