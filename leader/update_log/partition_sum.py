"""The sums of one partition of the log: a function of what stands in it from its beginning, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.exact_sum import check_range
from leader.aggregation.robust.aggregate import BUFFERS_RULE, combine
from leader.aggregation.robust.rows import WholeRows
from leader.distributed.messages import UID_BYTES
from leader.update_log.arithmetic import Arithmetic, Total
from leader.update_log.records import joined, uids_of
from protos import log_pb2
from utils.errors import LateUpdateError, PayloadError

Key = tuple[bytes, int]  # an update, and which of its blocks


class PartitionSum:
    """Adds blocks up as they come, and gives sums over exactly the updates that are asked for.

    A sum begins with the first record that has its number; what comes of an earlier one is too late then. As sums are
    integers, what is added and not asked for is taken out again to the last bit. Under a rule nothing is added before
    it is known which updates it is over.
    """

    def __init__(self, partition: int, reread: Callable[[int], log_pb2.LogRecord]) -> None:
        """`reread` gives what stands at an offset of this partition."""
        self._partition = partition
        self._reread = reread
        self._plan = log_pb2.LogPlan()
        self._first = 0  # offset of the first record of this sum
        self.needed = 0  # what stands before this offset never is again, as commits have told
        self._forget()

    def _forget(self) -> None:
        self._offsets: dict[Key, int] = {}  # of all blocks that have come
        self._added: set[Key] = set()  # those in the sums
        self._sums: dict[int, Total] = {}  # by block

    def read(self, record: log_pb2.LogRecord, offset: int) -> Iterator[log_pb2.BlockSum]:
        """Take the record at `offset`, and answer it where it asks for sums.

        Raises the WireError that a record is refused with, which then has changed nothing.
        """
        match record.WhichOneof("kind"):
            case "block":
                self._block(record.block, offset)
            case "close":
                self._begin(record.close.plan, offset)
                yield from self._close(record.close)
            case "commit":
                self._commit(record.commit, offset)
            case _:
                raise PayloadError("a record that does not belong among updates")

    def _commit(self, commit: log_pb2.LogCommit, offset: int) -> None:
        is_ahead = self._plan.sum > commit.sum  # an edge was, and the next sum has begun
        self.needed = self._first if is_ahead else offset + 1
        if not is_ahead:
            self._forget()

    def _begin(self, plan: log_pb2.LogPlan, offset: int) -> None:
        """Go on with the sum of `plan`, which may be a new one."""
        if plan.sum < self._plan.sum:
            raise LateUpdateError("a record of a sum that is over")
        if plan.sum > self._plan.sum:
            arithmetic = Arithmetic(plan)
            if not 0 <= self._partition < plan.partitions:
                raise PayloadError("a record of a log with fewer partitions")
            self._arithmetic, self._grid = arithmetic, arithmetic.grid
            self._plan.CopyFrom(plan)
            self._first = offset
            self._forget()
        elif plan != self._plan:
            raise PayloadError("a record whose plan is another than that of its sum")

    def _block(self, block: log_pb2.Block, offset: int) -> None:
        self._begin(block.plan, offset)
        key = (block.uid, block.number)
        if key in self._offsets:  # sent twice
            return
        self._check(block)
        if not self._plan.rule:
            self._add(block, 1)
            self._added.add(key)
        self._offsets[key] = offset

    def _check(self, block: log_pb2.Block) -> None:
        grid, scale, number = self._grid, self._arithmetic.scale, block.number
        if (
            len(block.uid) != UID_BYTES
            or self._partition not in grid.places(block.uid)
            or number not in grid.numbers(self._partition)
        ):
            raise PayloadError("a block in a partition that is not its own")
        if len(block.values) != (self._arithmetic.block_bytes(number) if block.weight else 0):
            raise PayloadError(f"block {number} has {len(block.values)} bytes")
        is_weighed = block.weight <= min(scale.heaviest, scale.max_weight) and block.factor >= 0
        if not (block.weight == block.factor == 1 if self._plan.bits else is_weighed):
            raise PayloadError(f"a block of weight {block.weight} and factor {block.factor:g}")
        if self._plan.rule:  # a sum checks what it adds
            check_range(np.frombuffer(block.values, "<f4"), scale.max_abs, block.factor)

    def _add(self, block: log_pb2.Block, sign: int) -> None:
        if not block.weight:
            return
        total, weight = self._sum(block.number), sign * block.weight
        total.add(self._arithmetic.values(block), weight, factor=block.factor)
        total.count(weight)

    def _sum(self, number: int) -> Total:
        if number not in self._sums:
            self._sums[number] = self._arithmetic.total(number)
        return self._sums[number]

    def _close(self, close: log_pb2.LogClose) -> Iterator[log_pb2.BlockSum]:
        """What exactly these updates come to, or which of them are not whole here."""
        numbers, uids = self._grid.numbers(self._partition), uids_of(close.uids)
        wanted = {(uid, number) for uid in uids for number in numbers}
        if missing := {uid for uid, number in wanted if (uid, number) not in self._offsets}:
            yield self._answer(close, missing=joined(missing))
            return
        if not self._plan.rule:
            self._correct(wanted)
        for number in numbers:
            weight, words = self._ruled(uids, number) if self._plan.rule else self._summed(number)
            for piece, part in enumerate(self._arithmetic.pieces(number)):
                data = words[part].tobytes()
                yield self._answer(close, number=number, piece=piece, weight=weight, words=data)

    def _answer(self, close: log_pb2.LogClose, **told: Any) -> log_pb2.BlockSum:
        return log_pb2.BlockSum(sum=self._plan.sum, attempt=close.attempt, partition=self._partition, **told)

    def _correct(self, wanted: set[Key]) -> None:
        """Have exactly these blocks in the sums."""
        for key in sorted(self._added ^ wanted, key=self._offsets.__getitem__):
            self._add(self._again(key), 1 if key in wanted else -1)
            self._added ^= {key}

    def _again(self, key: Key) -> log_pb2.Block:
        """A block that has been read before."""
        block = self._reread(self._offsets[key]).block
        if (block.uid, block.number) != key or block.plan != self._plan:
            raise PayloadError("the log has another record where a block was")
        return block

    def _summed(self, number: int) -> tuple[int, NDArray[np.generic]]:
        """Weight and sum of a block."""
        total, arithmetic = self._sum(number), self._arithmetic
        return total.weight, total.whole().astype(arithmetic.answers[arithmetic.kind(number)], copy=False)

    def _ruled(self, uids: Sequence[bytes], number: int) -> tuple[int, NDArray[np.generic]]:
        """How many of these updates bring a block, and what the rule makes of it; they are in memory together."""
        start, stop = self._grid.blocks[number]
        rows, count = np.empty((len(uids), stop - start), np.float32), 0
        for uid in uids:
            if (block := self._again((uid, number))).weight:
                rows[count] = np.frombuffer(block.values, "<f4")
                count += 1
        rule = self._plan.rule if start < self._grid.parameters else BUFFERS_RULE
        combined = combine(rule, self._plan.byzantine, WholeRows(rows[:count]))
        return count, combined.astype("<f4", copy=False)
