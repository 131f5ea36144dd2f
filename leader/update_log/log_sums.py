"""The sums of a log of updates, as the leader gets them: aggregators make them, or else it does so itself."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Term
from leader.config import AggregateConfig
from leader.distributed.edge_below import Partial, Take
from leader.update_log.arithmetic import Arithmetic, grid_of
from leader.update_log.logged_updates import kinds_of, records_of
from leader.update_log.recall import Recall
from leader.update_log.records import uids_of
from leader.update_log.run_log import MEAN, RunLog, opened_plan
from model.fragments import Fragments
from protos import edge_pb2, log_pb2
from utils.errors import NotReadyError, PayloadError

_log = logging.getLogger(__name__)


class Gathering:
    """The sums of one attempt, as they come: from anybody, in any order, repeated."""

    def __init__(self, plan: log_pb2.LogPlan, attempt: int, partitions: Collection[int]) -> None:
        self._plan = plan
        self._attempt = attempt
        self._arithmetic = Arithmetic(plan)
        self._grid = self._arithmetic.grid
        one, other = self._arithmetic.answers
        split = plan.parameters * one.itemsize
        self._data = np.zeros(split + (plan.values - plan.parameters) * other.itemsize, np.uint8)
        self._words = self._data[:split].view(one), self._data[split:].view(other)
        self._weights: dict[tuple[int, int], int] = {}  # by partition and block
        self._crcs: dict[tuple[int, int, int], int] = {}  # by partition, block and piece
        self._awaited = {partition: self._pieces(partition) for partition in partitions}
        self.missing: set[bytes] = set()  # updates that are not whole

    def _pieces(self, partition: int) -> dict[tuple[int, int], NDArray[Any]]:
        """Where each block's words go, piece by piece."""
        places = {}
        for number in self._grid.numbers(partition):
            kind, (start, stop) = self._arithmetic.kind(number), self._grid.blocks[number]
            first = self._grid.parameters if kind else 0
            block = self._words[kind][start - first : stop - first]
            for at, piece in enumerate(self._arithmetic.pieces(number)):
                places[number, at] = block[piece]
        return places

    @property
    def silent(self) -> list[int]:
        """Partitions of which something has not come yet."""
        return [partition for partition, pieces in self._awaited.items() if pieces]

    def take(self, answer: log_pb2.BlockSum) -> bool:
        """Add what is new; whether it was. Raises PayloadError for an answer that can't be."""
        partition, place = answer.partition, (answer.number, answer.piece)
        if (answer.sum, answer.attempt) != (self._plan.sum, self._attempt) or partition not in self._awaited:
            return False
        if answer.missing:
            self.missing.update(uids_of(answer.missing))
            self._awaited[partition] = {}
            return True
        crc32 = zlib.crc32(answer.words, answer.weight)
        if place not in self._awaited[partition]:
            if self._crcs.get((partition, *place), crc32) != crc32:
                raise PayloadError(f"two sums of block {answer.number} differ")
            return False
        target, block = self._awaited[partition][place], (partition, answer.number)
        is_whole = len(answer.words) == target.nbytes
        if not is_whole or self._weights.setdefault(block, answer.weight) != answer.weight:
            raise PayloadError(f"a sum of block {answer.number} that can't be")
        target += np.frombuffer(answer.words, target.dtype)
        self._crcs[partition, *place] = crc32
        del self._awaited[partition][place]
        return True

    def partial(self, uids: frozenset[bytes]) -> Partial:
        """The whole; raises PayloadError where blocks have other weights than the rest."""
        totals = [0] * len(self._grid.blocks)
        for (_, number), weight in self._weights.items():
            totals[number] += weight
        kinds: dict[bool, set[int]] = {}  # parameters, then buffers
        for (start, _), weight in zip(self._grid.blocks, totals, strict=True):
            kinds.setdefault(start >= self._grid.parameters, set()).add(weight)
        if any(len(weights) > 1 for weights in kinds.values()):
            raise PayloadError("the sums of some blocks have other updates in them than the rest")
        told = [weights.pop() for weights in kinds.values()]
        return Partial(uids, tuple({*told} if self._plan.bits else told), self._data)


class LogSums:
    """The sums of a run's exchanges, made of the log."""

    def __init__(
        self,
        log: RunLog,
        fragments: Fragments,
        partitions: int,
        quiet_s: float,
        keep: int = 0,
        recall: Recall | None = None,
        aggregate: AggregateConfig = MEAN,
    ) -> None:
        """Have the topics, where the log is there.

        Args:
            fragments: what a round exchanges.
            quiet_s: seconds without a sum after which the leader makes those itself that have not come.
            keep: sums whose updates are kept in the log.
            recall: what is filled with the receipts that a leader before has left, if there was one.
            aggregate: what is made of the updates.
        """
        self._log = log
        self._fragments = fragments
        self._partitions = partitions
        self._quiet_s = quiet_s
        self._made = aggregate
        self._plan = log_pb2.LogPlan()
        # Of this leader alone: an answer to what one before it asked for is none to this one.
        self._attempt = random.getrandbits(31)
        self._one = threading.Lock()  # thread at a time reads
        self._commits: deque[Mapping[int, int]] = deque(maxlen=keep + 2)  # where they stand, by partition
        self._chores: set[asyncio.Task[None]] = set()
        self._said: set[str] = set()
        self._recall = recall
        self._begin(0)
        if recall is not None and not self._said:
            with self._telling_once("away"):
                recall.read(log, quiet_s)

    def open(self, opened: edge_pb2.Open) -> None:
        """A sum begins, of the number that is told to edges; see Hub.open."""
        before, shared = self._plan.sum, self._fragments.of(opened.round)
        self._plan = opened_plan(opened, shared, self._partitions, self._made)
        if not (self._recall and self._recall.goes_on(opened, self._plan)):
            self._plan.sum = max(before + 1, self._plan.sum + 1, time.time_ns())
        opened.log = self._plan.sum
        # Its updates are needed until the round is in a checkpoint, and the next round begins after that.
        chore = asyncio.ensure_future(asyncio.to_thread(self._begin, 0 if opened.step else before))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def put(self, uid: bytes, terms: Iterable[Term]) -> None:
        """Write an update that came to the leader among the others; raises NotReadyError."""
        self._log.put(records_of(self._plan, uid, kinds_of(self._plan, terms)))

    def _begin(self, committed: int) -> None:
        """Have the topics, and let go of the sum that is in a checkpoint."""
        with self._telling_once("away"):
            self._log.make(self._partitions)
            if committed:
                record = log_pb2.LogRecord(commit=log_pb2.LogCommit(sum=committed))
                offsets = self._log.put((partition, record) for partition in range(self._partitions))
                self._commits.append(dict(enumerate(offsets)))
            self._said.discard("away")
        if committed and len(self._commits) == self._commits.maxlen:
            with self._telling_once("trim"):
                self._log.log.trim(self._log.updates, self._commits[0])

    @contextmanager
    def _telling_once(self, what: str) -> Iterator[None]:
        """Nothing here holds up the run."""
        try:
            yield
        except NotReadyError as error:
            if what not in self._said:
                _log.warning("%s; the run goes on", error)
            self._said.add(what)

    async def collect(self, uids: Collection[bytes], take: Take) -> frozenset[bytes]:
        """See Hub.collect."""
        if not uids:
            return frozenset()
        self._attempt += 1
        partial = await asyncio.to_thread(self._gather, self._plan, self._attempt, tuple(uids))
        if not isinstance(partial, Partial):
            return partial
        await take(partial)
        return frozenset()

    def _gather(
        self, plan: log_pb2.LogPlan, attempt: int, uids: tuple[bytes, ...]
    ) -> Partial | frozenset[bytes]:
        """The sum over these updates, or those that are lost."""
        with self._one:
            try:
                start = self._log.answer([log_pb2.BlockSum()])[0]  # answers come behind it
                closes = self._close(plan, attempt, uids)
                gathering = self._listen(Gathering(plan, attempt, closes), start)
                for partition in gathering.silent:
                    self._sum(gathering, partition, closes[partition])
                if gathering.missing:
                    return frozenset(gathering.missing.intersection(uids))
                if gathering.silent:
                    raise NotReadyError("another one has begun there")
                return gathering.partial(frozenset(uids))
            except (NotReadyError, PayloadError) as error:
                _log.warning("the sum in the log can't be had (%s); its updates are asked for again", error)
                return frozenset(uids)

    def _close(self, plan: log_pb2.LogPlan, attempt: int, uids: tuple[bytes, ...]) -> dict[int, int]:
        """Ask for the sums in all partitions that the updates are in; where each was asked."""
        members: dict[int, list[bytes]] = {}
        for uid in uids:
            for partition in grid_of(plan).places(uid):
                members.setdefault(partition, []).append(uid)
        closes = (
            (
                partition,
                log_pb2.LogRecord(close=log_pb2.LogClose(plan=plan, attempt=attempt, uids=b"".join(own))),
            )
            for partition, own in members.items()
        )
        return dict(zip(members, self._log.put(closes), strict=True))

    def _listen(self, gathering: Gathering, start: int) -> Gathering:
        """Take what aggregators answer, until all is here or nothing more comes."""
        heard = time.monotonic()
        for answer in self._log.answers(start):
            if answer is not None and gathering.take(answer):
                heard = time.monotonic()
            if not gathering.silent or time.monotonic() > heard + self._quiet_s:
                break
        if gathering.silent:
            _log.warning(
                "no aggregator has summed partitions %s of the log in %g s (edges.sum_timeout_s); the leader does",
                ", ".join(map(str, gathering.silent)),
                self._quiet_s,
            )
        return gathering

    def _sum(self, gathering: Gathering, partition: int, close: int) -> None:
        """Take what comes of the log itself up to offset `close`, where the sum was asked for."""
        sums, heard = self._log.partition_sum(partition), time.monotonic()
        # Edges may have been ahead of the newest commit, but not of the one before.
        start = self._commits[-2][partition] if len(self._commits) > 1 else 0
        start = start if start <= close else 0  # else the log has begun anew
        for found in self._log.log.scan(self._log.updates, partition, start):
            if found is None and time.monotonic() > heard + self._quiet_s:
                raise NotReadyError(f"partition {partition} can't be read")
            if found is None:
                continue
            heard = time.monotonic()
            if found[0] > close:
                break
            for answer in self._log.follow(sums, partition, *found):
                gathering.take(answer)
            if found[0] == close:
                break
