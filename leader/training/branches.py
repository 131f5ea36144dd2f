"""Where a run's sums are made: in the leader alone, or at edges too, whose sums are merged when an exchange closes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Aggregator, Contribution, Countable
from leader.aggregation.exact_sum import Scale
from leader.aggregation.robust.aggregate import RobustAggregate
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hub
from leader.distributed.messages import UID_BYTES, scale_message
from leader.distributed.ticket import LIFE_S, seal
from leader.runtime import Host
from leader.secagg.masked_sum import MaskedSum
from leader.update_log.log_sums import LogSums
from leader.update_log.recall import Recall
from protos import edge_pb2, leader_pb2
from utils import faults
from utils.errors import NotReadyError

_MOST_EDGES = 64  # that one learner is told of


class Branches(Protocol):
    """What an exchange knows of the places where its updates are added."""

    def open(self, opened: edge_pb2.Open, scale: Scale, aggregate: Aggregator) -> None:
        """An exchange begins, whose sum is `aggregate`, empty."""
        ...

    def via(self, ticket: edge_pb2.Ticket) -> leader_pb2.Via | None:
        """Where else than at the leader the order of this ticket may be done; None where there is nothing."""
        ...

    def count(self, contribution: Contribution) -> None:
        """Count an update whose values are elsewhere; raises the WireError that it is refused with."""
        ...

    async def gather(self) -> tuple[str, ...] | None:
        """Have all that is counted in the aggregate; as `left`."""
        ...

    def left(self) -> tuple[str, ...] | None:
        """Parts that are in the sum or counted, where some are not any more that were when this was asked before."""
        ...


class NoBranches:
    """There is the leader alone."""

    def open(self, opened: edge_pb2.Open, scale: Scale, aggregate: Aggregator) -> None:
        """See Branches."""

    def via(self, ticket: edge_pb2.Ticket) -> leader_pb2.Via | None:
        """See Branches."""
        return None

    def count(self, contribution: Contribution) -> None:
        """See Branches."""
        raise NotReadyError("this run has no edges")

    async def gather(self) -> tuple[str, ...] | None:
        """See Branches."""
        return None

    def left(self) -> tuple[str, ...] | None:
        """See Branches."""
        return None


class Tree:
    """Edges that keep sums of their own, and give them when an exchange closes."""

    def __init__(
        self,
        hub: Hub,
        run_id: str,
        key: bytes,
        host: Host,
        told: Callable[[tuple[str, ...]], None],
        log: LogSums | None = None,
        recall: Recall | None = None,
    ) -> None:
        """`told` is called with parts that were counted and are lost.

        Args:
            key: what tickets are signed with.
            log: where edges write updates that they do not add.
            recall: those that are there since before the leader was started.
        """
        self._hub = hub
        self._run_id = run_id
        self._key = key
        self._host = host
        self._told = told
        self._log = log
        self._recall = recall
        self._aggregate: Countable | None = None
        self._parts: dict[bytes, str] = {}  # that are counted and not here yet, by uid
        self._round = 0
        self._lost = False  # whether parts are that nobody has been told of
        self._bypassed = False  # whether updates of the open sum come to the leader alone: the log gave none

    def open(self, opened: edge_pb2.Open, scale: Scale, aggregate: Aggregator) -> None:
        """See Branches."""
        assert isinstance(aggregate, Aggregate | MaskedSum | RobustAggregate)  # else the config was refused
        opened.scale.CopyFrom(scale_message(scale))
        self._aggregate = aggregate
        self._round = opened.round
        self._parts.clear()
        self._lost = self._bypassed = False
        if self._log is not None:
            self._log.open(opened)
        self._hub.open(opened, aggregate.sum_bytes)

    def via(self, ticket: edge_pb2.Ticket) -> leader_pb2.Via | None:
        """See Branches."""
        if not self._hub.addresses or self._bypassed:
            return None
        edges, urls = (_told(ticket.learner_id, all_) for all_ in (self._hub.addresses, self._hub.urls))
        ticket.run_id, ticket.until = self._run_id, int(time.time()) + LIFE_S
        return leader_pb2.Via(ticket=seal(self._key, ticket), edges=edges, urls=urls)

    def count(self, contribution: Contribution) -> None:
        """See Branches."""
        assert contribution.elsewhere is not None
        assert self._aggregate is not None
        uid = contribution.elsewhere.uid
        recalled = self._recall is not None and self._recall.holds(uid)
        if uid in self._parts or not (recalled or self._hub.holds(uid)):
            raise NotReadyError("the edge that has this update is gone; send it again")
        self._aggregate.count(contribution)
        self._parts[uid] = contribution.part

    async def gather(self) -> tuple[str, ...] | None:
        """See Branches."""
        faults.reach("leader.closing", self._round)
        is_there = await self._handed_over()
        asked = sorted(self._parts, key=self._parts.__getitem__)  # as a leader alone has them under a rule
        lost = frozenset(asked)
        if is_there:
            lost = await (self._log or self._hub).collect(asked, self._take)
        self._bypassed = self._log is not None and bool(lost) and len(lost) == len(asked)
        self._forget(lost)
        return self.left()

    async def _handed_over(self) -> bool:
        """Have in the log what must be seen together; whether it is there."""
        try:
            if self._log is not None and self._parts:
                await asyncio.to_thread(self._hand_over, self._log)
        except NotReadyError:
            return False
        return True

    def _hand_over(self, log: LogSums) -> None:
        assert self._aggregate is not None
        for part, terms in self._aggregate.hand_over():
            uid = os.urandom(UID_BYTES)
            log.put(uid, terms)
            self._parts[uid] = part

    async def _take(self, partial: Partial) -> None:
        assert self._aggregate is not None
        parts = frozenset(self._parts[uid] for uid in partial.uids)
        await self._host.compute(self._aggregate.merge, parts, partial.weights, partial.data)
        for uid in partial.uids:
            del self._parts[uid]
        faults.reach("leader.merged", self._round)

    def lose(self, uids: frozenset[bytes]) -> None:
        """An edge is gone with these, unless they are in the log."""
        if self._log is None:
            self._forget(uids)

    def _forget(self, uids: frozenset[bytes]) -> None:
        parts = frozenset(self._parts.pop(uid) for uid in uids if uid in self._parts)
        if not parts:
            return
        assert self._aggregate is not None
        self._aggregate.forget(parts)
        self._lost = True
        self._told(tuple(sorted(parts)))

    def left(self) -> tuple[str, ...] | None:
        """See Branches."""
        if not self._lost or self._aggregate is None:
            return None
        self._lost = False
        return tuple(self._aggregate.parts)


def _told(learner_id: int, places: tuple[str, ...]) -> tuple[str, ...]:
    """The places that a learner is told; each begins with another."""
    first = learner_id % max(1, len(places))
    return (places[first:] + places[:first])[:_MOST_EDGES]
