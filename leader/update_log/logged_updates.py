"""What an edge has in place of a sum where updates go into a log: checked as for a sum, they are written there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Term
from leader.aggregation.exact_sum import check_range
from leader.aggregation.spool import scaled
from leader.update_log.partition_sum import grid_of
from leader.update_log.run_log import RunLog
from protos import log_pb2
from utils.errors import NotReadyError


def records_of(
    plan: log_pb2.LogPlan, uid: bytes, terms: Iterable[Term]
) -> Iterator[tuple[int, log_pb2.LogRecord]]:
    """An update's records, each with its partition."""
    grid = grid_of(plan)
    values = np.zeros(grid.values, np.float32)
    kinds = {}
    for term in terms:
        values[term.start : term.start + term.values.size] = term.values
        kinds[term.start >= grid.parameters] = term
    for partition in grid.places(uid):
        for number in grid.numbers(partition):
            start, stop = grid.blocks[number]
            block = log_pb2.Block(plan=plan, uid=uid, number=number)
            if (kind := kinds.get(start >= grid.parameters)) is not None:
                block.weight, block.factor = kind.weight, kind.factor
                block.values = values[start:stop].astype("<f4", copy=False).tobytes()
            yield partition, log_pb2.LogRecord(block=block)


class LoggedUpdates(Aggregate):
    """Mergeable that has nothing itself: who reads the log adds up, and takes out what is not counted."""

    def to(self, log: RunLog, plan: log_pb2.LogPlan) -> LoggedUpdates:
        """Have updates go into this log from here on."""
        self._log, self._plan, self._is_noted = log, plan, False
        return self

    def add(self, contribution: Contribution) -> None:
        """Write an update, which then is durable.

        Raises what Aggregate.add does, and NotReadyError where the log can't be reached.
        """
        assert contribution.elsewhere is not None
        terms = self.terms(contribution)
        try:
            self._note()
            self._log.put(records_of(self._plan, contribution.elsewhere.uid, terms))
        except NotReadyError as error:
            raise NotReadyError(f"the log of updates is away ({error}); send the update elsewhere") from None

    def _note(self) -> None:
        """No block stands in the log before it says that its sum is the newest: see leader/update_log/recall.py."""
        if not self._is_noted:
            self._log.note(log_pb2.LogReceipt(plan=self._plan))
            self._is_noted = True

    def terms(self, contribution: Contribution) -> list[Term]:
        """See Aggregate; for a rule as a spool has them, where each counts once."""
        terms = super().terms(contribution)
        if not self._plan.rule:
            return terms
        for term in terms:  # before the clip, as the leader does
            check_range(term.values, self._scale.max_abs)
        return [Term(term.start, scaled(term.values, term.factor), 1, 1.0) for term in terms]

    def withdraw(self, contribution: Contribution) -> None:
        """See Mergeable: what is not counted is no member."""
