"""One run's log of updates: its topics, what is written into them, and how a partition is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from leader.config import AggregateConfig
from leader.secagg.masked_sum import words_of
from leader.update_log.base import Entry, UpdateLog
from leader.update_log.partition_sum import PartitionSum
from leader.update_log.records import Sealer
from model.layout import Layout
from protos import edge_pb2, log_pb2
from utils.errors import (
    ForbiddenError,
    LateUpdateError,
    NotReadyError,
    PayloadError,
    ValueRangeError,
)

_log = logging.getLogger(__name__)
MEAN = AggregateConfig()
_SUMS, _RECEIPTS = "sums", "receipts"  # places of all answers, and of all receipts
_MOST_RECEIPTS = 200_000  # that are read again; older ones are of rounds that are over
_AWAY_S = 5.0  # for which nothing is tried after a failure


def plan_of(
    number: int,
    scale: edge_pb2.SumScale,
    parameters: int,
    values: int,
    partitions: int,
    aggregate: AggregateConfig = MEAN,
    bits: int = 0,
) -> log_pb2.LogPlan:
    """The plan of sum `number`, of masked updates where `bits` is not 0."""
    plan = log_pb2.LogPlan(
        sum=number, scale=scale, parameters=parameters, values=values, partitions=partitions, bits=bits
    )
    if aggregate.rule != "mean":
        plan.rule, plan.byzantine = aggregate.rule, aggregate.byzantine
    return plan


def opened_plan(
    opened: edge_pb2.Open, shared: Layout, partitions: int, aggregate: AggregateConfig = MEAN
) -> log_pb2.LogPlan:
    """The plan of the sum of an exchange of what `shared` shares, as leader and edges have it alike."""
    bits = opened.masking.bits
    parameters, values = shared.shared_parameter_count, shared.pieces()[-1].stop
    if bits:
        parameters, wide = words_of(shared, opened.masking, opened.noise)
        values = parameters + wide
    return plan_of(opened.log, opened.scale, parameters, values, partitions, aggregate, bits)


class RunLog:
    """The log of one run; methods raise NotReadyError where it can't be reached.

    After a failure updates are refused for a while at once: who brings them goes elsewhere sooner.
    """

    def __init__(self, log: UpdateLog, topic: str, run_id: str, key: bytes) -> None:
        """`key` is what the run's tickets are signed with."""
        self.log = log
        self.updates, self.sums = f"{topic}.{run_id}", f"model-sums.{run_id}"
        self.receipts = f"update-receipts.{run_id}"
        self._sealer = Sealer(key)
        self._away_until = 0.0

    def make(self, partitions: int) -> None:
        """Have the topics."""
        self.log.make({self.updates: partitions, self.sums: 1, self.receipts: 1})

    def put(self, records: Iterable[tuple[int, log_pb2.LogRecord]]) -> list[int]:
        """Write records among the updates, each into its partition; once this returns they are durable."""
        sealed = (
            Entry(partition, record.block.uid, self._sealer.seal(_place(partition), record))
            for partition, record in records
        )
        return self._put(self.updates, sealed)

    def note(self, receipt: log_pb2.LogReceipt) -> int:
        """Write a receipt; once this returns it is durable. Its offset."""
        record = log_pb2.LogRecord(receipt=receipt)
        return self._put(self.receipts, [Entry(0, b"", self._sealer.seal(_RECEIPTS, record))])[0]

    def _put(self, topic: str, sealed: Iterable[Entry]) -> list[int]:
        if time.monotonic() < self._away_until:
            raise NotReadyError("Kafka was away a moment ago")
        try:
            return self.log.put(topic, sealed)
        except NotReadyError:
            self._away_until = time.monotonic() + _AWAY_S
            raise

    def answer(self, sums: Iterable[log_pb2.BlockSum]) -> list[int]:
        """Write sums."""
        records = (log_pb2.LogRecord(sum=one) for one in sums)
        return self.log.put(self.sums, (Entry(0, b"", self._sealer.seal(_SUMS, one)) for one in records))

    def answers(self, offset: int) -> Iterator[log_pb2.BlockSum | None]:
        """The sums from `offset` on; None where none has come for a while."""
        for found in self.log.scan(self.sums, 0, offset):
            record = self._open(_SUMS, found[1]) if found else None
            yield record.sum if record else None

    def noted(self, quiet_s: float) -> Iterator[log_pb2.LogReceipt]:
        """The newest receipts that are there by now; raises NotReadyError where nothing comes for so long."""
        end, heard = self.note(log_pb2.LogReceipt()), time.monotonic()
        for found in self.log.scan(self.receipts, 0, max(0, end - _MOST_RECEIPTS)):
            if found is None and time.monotonic() > heard + quiet_s:
                raise NotReadyError("the receipts in Kafka can't be read")
            if found is None:
                continue
            heard = time.monotonic()
            if (record := self._open(_RECEIPTS, found[1])) is not None:
                yield record.receipt
            if found[0] >= end:
                break

    def _open(self, place: str, value: bytes) -> log_pb2.LogRecord | None:
        try:
            return self._sealer.open(place, value)
        except ForbiddenError as error:
            _log.warning("%s", error)
            return None

    def partition_sum(self, partition: int) -> PartitionSum:
        """Sums of a partition, of which nothing has been read yet."""

        def reread(offset: int) -> log_pb2.LogRecord:
            return self._sealer.open(_place(partition), self.log.read(self.updates, partition, offset))

        return PartitionSum(partition, reread)

    def follow(
        self, sums: PartitionSum, partition: int, offset: int, value: bytes
    ) -> Iterator[log_pb2.BlockSum]:
        """Have `sums` read the record at `offset`; its answers. What is wrong is logged and passed over."""
        try:
            yield from sums.read(self._sealer.open(_place(partition), value), offset)
        except LateUpdateError as error:
            _log.debug("record %d of partition %d: %s", offset, partition, error)
        except (ForbiddenError, PayloadError, ValueRangeError) as error:
            _log.warning("record %d of partition %d is refused: %s", offset, partition, error)


def _place(partition: int) -> str:
    return f"updates {partition}"
