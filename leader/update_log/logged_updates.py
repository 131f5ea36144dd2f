"""What an edge has in place of a sum where updates go into a log: checked as for a sum, they are written there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Term
from leader.aggregation.exact_sum import check_range
from leader.aggregation.spool import scaled
from leader.secagg.masked_sum import MaskedSum
from leader.update_log.arithmetic import grid_of
from leader.update_log.run_log import RunLog
from protos import log_pb2
from utils.errors import NotReadyError
from utils.secagg.update import VALUES, WIDE


@dataclass(frozen=True)
class Kind:
    """Those values of an update that have one weight and one factor."""

    values: NDArray[np.generic]
    weight: int = 1
    factor: float = 1.0


def kinds_of(plan: log_pb2.LogPlan, terms: Iterable[Term]) -> tuple[Kind | None, Kind | None]:
    """Parameters and buffers of an update that is added exactly; None = it brings none."""
    values = np.zeros(plan.values, np.float32)
    found: list[Term | None] = [None, None]
    for term in terms:
        values[term.start : term.start + term.values.size] = term.values
        found[term.start >= plan.parameters] = term
    whole = values[: plan.parameters], values[plan.parameters :]
    one, other = (
        Kind(its.astype("<f4", copy=False), term.weight, term.factor) if term else None
        for its, term in zip(whole, found, strict=True)
    )
    return one, other


def records_of(
    plan: log_pb2.LogPlan, uid: bytes, kinds: Sequence[Kind | None]
) -> Iterator[tuple[int, log_pb2.LogRecord]]:
    """An update's records, each with its partition."""
    grid = grid_of(plan)
    for partition in grid.places(uid):
        for number in grid.numbers(partition):
            start, stop = grid.blocks[number]
            block = log_pb2.Block(plan=plan, uid=uid, number=number)
            first = grid.parameters if start >= grid.parameters else 0
            if (kind := kinds[first > 0]) is not None:
                block.weight, block.factor = kind.weight, kind.factor
                block.values = kind.values[start - first : stop - first].tobytes()
            yield partition, log_pb2.LogRecord(block=block)


class Logged:
    """What writes updates and has no sum itself: who reads the log adds up, and takes out what is not counted."""

    def to(self, log: RunLog, plan: log_pb2.LogPlan) -> Self:
        """Have updates go into this log from here on."""
        self._log, self._log_plan, self._is_noted = log, plan, False
        return self

    def _write(self, contribution: Contribution, kinds: Sequence[Kind | None]) -> None:
        """Write an update, which then is durable; raises NotReadyError where the log can't be reached."""
        assert contribution.elsewhere is not None
        try:
            self._note()
            self._log.put(records_of(self._log_plan, contribution.elsewhere.uid, kinds))
        except NotReadyError as error:
            raise NotReadyError(f"the log of updates is away ({error}); send the update elsewhere") from None

    def _note(self) -> None:
        """No block stands in the log before it says that its sum is the newest: see leader/update_log/recall.py."""
        if not self._is_noted:
            self._log.note(log_pb2.LogReceipt(plan=self._log_plan))
            self._is_noted = True

    def withdraw(self, contribution: Contribution) -> None:
        """See Mergeable: what is not counted is no member."""


class LoggedUpdates(Logged, Aggregate):
    """Mergeable of updates that are added exactly."""

    def add(self, contribution: Contribution) -> None:
        """Write an update; raises what Aggregate.add does, and NotReadyError where the log can't be reached."""
        self._write(contribution, kinds_of(self._log_plan, self.terms(contribution)))

    def terms(self, contribution: Contribution) -> list[Term]:
        """See Aggregate; for a rule as a spool has them, where each counts once."""
        terms = super().terms(contribution)
        if not self._log_plan.rule:
            return terms
        for term in terms:  # before the clip, as the leader does
            check_range(term.values, self._scale.max_abs)
        return [Term(term.start, scaled(term.values, term.factor), 1, 1.0) for term in terms]


class LoggedWords(Logged, MaskedSum):
    """Mergeable of masked updates."""

    def add(self, contribution: Contribution) -> None:
        """Write an update; raises NotReadyError where the log can't be reached."""
        arrays = contribution.payload.arrays()
        self._write(contribution, [Kind(arrays[name]) for name in (VALUES, WIDE)])
