"""The two ends of a log: what edges write comes to the leader as the bits of one sum, by aggregators or without."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere, Mergeable, Result
from leader.aggregation.exact_sum import Scale
from leader.aggregation.norms import squared_norm
from leader.aggregation.weighting import FedNova
from leader.distributed.edge_below import Partial
from leader.distributed.messages import scale_message
from leader.update_log.log_sums import Gathering, LogSums
from leader.update_log.logged_updates import LoggedUpdates
from leader.update_log.partition_sum import PartitionSum
from leader.update_log.records import joined
from leader.update_log.run_log import RunLog, plan_of
from model.fragments import Fragments
from model.layout import Layout
from protos import edge_pb2, log_pb2
from tests.tools.kafka import MemoryLog
from utils.errors import LimitError, NotReadyError, PayloadError, ValueRangeError
from utils.wire.payload import Manifest, Payload, encode_header, parse_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
LARGE = Layout.of(nn.Sequential(nn.Linear(700, 500), nn.BatchNorm1d(500)))
SCALE = Scale.of(1024.0, 10_000)
KEY = b"k" * 32
PARTITIONS = 4


def update(number: int, layout: Layout = LAYOUT, *, buffers: bool = True) -> Contribution:
    """An upload as an edge has it: its part is its uid."""
    entries = layout.entries if buffers else layout.parameters
    manifest = parse_header(encode_header((entry.name, "F32", entry.shape) for entry in entries))
    rng = np.random.default_rng(number)
    values = rng.normal(size=sum(entry.size for entry in entries)).astype(np.float32)
    payload = Payload(manifest, values.view(np.uint8), number)
    uid = rng.bytes(16)
    told = Elsewhere(uid, squared_norm(layout, payload), buffers)
    return Contribution(uid.hex(), 1 + number % 7, payload, 0.5, 1 + number % 3, elsewhere=told)


def receipt(one: Contribution) -> Contribution:
    empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), one.payload.crc32)
    return replace(one, payload=empty)


class Run:
    """A leader, edges and aggregators over one log in memory."""

    def __init__(self, layout: Layout = LAYOUT, quiet_s: float = 20.0, keep: int = 0) -> None:
        self.layout = layout
        self.memory = MemoryLog()
        self.log = RunLog(self.memory, "model-updates", "r", KEY)
        self.sums = LogSums(self.log, Fragments(layout), PARTITIONS, quiet_s, keep)
        self.leader = self._aggregate()
        self.opened = edge_pb2.Open()

    def _aggregate(self) -> Aggregate:
        return Aggregate(self.layout, SCALE, FedNova(0.9))

    async def open(self, step: int = 0) -> LoggedUpdates:
        """An exchange begins; an edge's end of it."""
        self.leader = self._aggregate()
        self.opened = edge_pb2.Open(scale=scale_message(SCALE), step=step)
        self.sums.open(self.opened)
        await asyncio.gather(*self.sums._chores)
        return self.edge(self.opened)

    def edge(self, opened: edge_pb2.Open) -> LoggedUpdates:
        layout = self.layout
        plan = plan_of(
            opened.log,
            opened.scale,
            layout.shared_parameter_count,
            self.leader.sum_bytes // 8,
            PARTITIONS,
        )
        return LoggedUpdates(layout, SCALE, FedNova(0.9)).to(self.log, plan)

    async def collect(self, members: Iterable[Contribution]) -> frozenset[bytes]:
        """Close over `members`, who are counted and merged; who of them is lost."""
        return await collected(self.sums, self.leader, members)

    def aggregate(self, stop: threading.Event, *partitions: int) -> threading.Thread:
        return aggregator(self.log, self.memory, stop, partitions)


async def collected(sums: LogSums, leader: Mergeable, members: Iterable[Contribution]) -> frozenset[bytes]:
    """Have `members` counted and merged; who of them is lost."""
    uids = {one.elsewhere.uid: one for one in members if one.elsewhere}
    for one in uids.values():
        leader.count(receipt(one))

    async def take(partial: Partial) -> None:
        parts = frozenset(uids[uid].part for uid in partial.uids)
        leader.merge(parts, partial.weights, partial.data)

    return await sums.collect(tuple(uids), take)


def aggregator(
    log: RunLog, memory: MemoryLog, stop: threading.Event, partitions: Sequence[int]
) -> threading.Thread:
    """An aggregator in a thread of its own."""

    def sum_up() -> None:
        readers = {partition: log.partition_sum(partition) for partition in partitions}
        scans = {partition: memory.scan(log.updates, partition, 0) for partition in partitions}
        while not stop.wait(0.001):
            for partition, scan in scans.items():
                while found := next(scan):
                    log.answer(log.follow(readers[partition], partition, *found))

    thread = threading.Thread(target=sum_up, daemon=True)
    thread.start()
    return thread


def alone(run: Run, members: Iterable[Contribution]) -> Result:
    """What a leader comes to that adds all itself."""
    whole = run._aggregate()
    for one in members:
        whole.add(one)
    return whole.finish()


def assert_same(run: Run, members: Iterable[Contribution]) -> None:
    found, expected = run.leader.finish(), alone(run, members)
    assert found.mean.tobytes() == expected.mean.tobytes()
    assert found.digest == expected.digest


@pytest.mark.parametrize("layout", [LAYOUT, LARGE], ids=["by update", "by slice"])
@pytest.mark.parametrize("aggregators", [0, 1, 3])
def test_whoever_sums_the_result_has_the_bits_of_one_leader(layout: Layout, aggregators: int) -> None:
    async def play() -> None:
        run, stop = Run(layout, 20.0 if aggregators else 0.0), threading.Event()
        threads = [run.aggregate(stop, *range(PARTITIONS)) for _ in range(aggregators)]
        for exchange in range(3):
            edge = await run.open()
            updates = [update(10 * exchange + n, layout, buffers=n != 2) for n in range(6)]
            for one in updates:
                edge.add(one)
            edge.withdraw(updates[5])  # refused by the leader
            assert await run.collect(updates[:5]) == frozenset()
            assert_same(run, updates[:5])
        stop.set()
        for thread in threads:
            thread.join()

    asyncio.run(play())


def test_updates_that_the_log_has_not_are_lost_and_the_rest_is_had_at_the_next_close() -> None:
    async def play() -> None:
        run = Run(quiet_s=0.0)
        edge = await run.open()
        updates = [update(number) for number in range(4)]
        for one in updates[:3]:
            edge.add(one)
        assert updates[3].elsewhere is not None
        assert await run.collect(updates) == {updates[3].elsewhere.uid}
        run.leader = run._aggregate()
        assert await run.collect(updates[:3]) == frozenset()
        assert_same(run, updates[:3])
        assert await run.collect([]) == frozenset()

    asyncio.run(play())


def test_a_log_that_is_away_costs_the_updates_in_it_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        run = Run(quiet_s=0.0)
        edge = await run.open()
        one, other = update(1), update(2)
        edge.add(one)
        run.memory.away = True
        with pytest.raises(NotReadyError, match=r"log of updates is away .*send the update elsewhere"):
            edge.add(other)
        assert one.elsewhere is not None
        assert await run.collect([one]) == {one.elsewhere.uid}
        run.memory.away = False
        with pytest.raises(NotReadyError, match="was away a moment ago"):
            edge.add(other)

    asyncio.run(play())
    assert [one for one in caplog.messages if "the sum in the log can't be had" in one] != []


def test_a_log_that_is_away_when_the_run_begins_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        memory = MemoryLog()
        memory.away = True
        sums = LogSums(RunLog(memory, "u", "r", KEY), Fragments(LAYOUT), PARTITIONS, 1.0)
        for _ in range(3):
            sums.open(edge_pb2.Open(scale=scale_message(SCALE)))
            await asyncio.gather(*sums._chores)

    with caplog.at_level(logging.WARNING):
        asyncio.run(play())
    assert caplog.messages == ["nobody there; the run goes on"]


@pytest.mark.parametrize("keep", [0, 2])
def test_what_a_checkpoint_holds_is_deleted_from_the_log_a_round_later(keep: int) -> None:
    async def play() -> None:
        run = Run(quiet_s=0.0, keep=keep)
        for number in range(6):
            edge = await run.open()
            edge.add(update(number))
            await run.collect([update(number)])
            await run.open(step=1)  # of the same round: nothing is committed
        assert len(run.memory.trimmed) == 4 - keep
        commits = [
            offset
            for offset, value in enumerate(run.memory.topics["model-updates.r"][0])
            if run.log._sealer.open("updates 0", value).HasField("commit")
        ]
        assert [one[0] for one in run.memory.trimmed] == commits[: 4 - keep]

    asyncio.run(play())


def test_an_edge_refuses_what_a_sum_would_refuse_and_writes_nothing() -> None:
    async def play() -> None:
        run = Run()
        edge = await run.open()
        bad = update(1)
        values = bad.payload.data.view(np.float32).copy()
        values[2] = np.nan
        for one, error in (
            (replace(bad, payload=Payload(bad.payload.manifest, values.view(np.uint8), 0)), ValueRangeError),
            (replace(bad, weight=100_000), LimitError),
            (receipt(bad), PayloadError),
        ):
            with pytest.raises(error):
                edge.add(one)
        assert run.memory.topics["model-updates.r"] == {}

    asyncio.run(play())


def answers_of(run: Run, updates: list[Contribution], plan: log_pb2.LogPlan) -> list[log_pb2.BlockSum]:
    """The true sums over `updates`, of all partitions, in attempt 1."""
    found: list[log_pb2.BlockSum] = []
    for partition in range(PARTITIONS):
        reader: PartitionSum = run.log.partition_sum(partition)
        values = run.memory.topics["model-updates.r"][partition]
        for offset, value in enumerate(values):
            list(run.log.follow(reader, partition, offset, value))
        uids = joined(one.elsewhere.uid for one in updates if one.elsewhere)
        close = log_pb2.LogClose(plan=plan, attempt=1, uids=uids)
        found += reader.read(log_pb2.LogRecord(close=close), len(values))
    return found


def test_sums_are_taken_once_and_one_that_differs_from_another_is_refused() -> None:
    async def play() -> None:
        run = Run(LARGE)
        edge = await run.open()
        updates = [update(number, LARGE) for number in range(3)]
        for one in updates:
            edge.add(one)
        plan = edge._log_plan
        answers = answers_of(run, updates, plan)
        gathering = Gathering(plan, 1, range(PARTITIONS))
        assert [gathering.take(one) for one in answers] == [True] * len(answers)
        assert [gathering.take(one) for one in answers] == [False] * len(answers)
        assert gathering.silent == []
        uids = frozenset(one.elsewhere.uid for one in updates if one.elsewhere)
        assert gathering.partial(uids).weights == (sum(one.weight for one in updates),) * 2
        for wrong in ("words", "weight"):
            damaged = log_pb2.BlockSum.FromString(answers[0].SerializeToString())
            if wrong == "words":
                damaged.words = bytes([damaged.words[0] ^ 1]) + damaged.words[1:]
            else:
                damaged.weight += 1
            with pytest.raises(PayloadError, match="two sums of block 0 differ"):
                gathering.take(damaged)
        fresh = Gathering(plan, 1, range(PARTITIONS))
        damaged = log_pb2.BlockSum.FromString(answers[0].SerializeToString())
        damaged.words = damaged.words[:-1]
        with pytest.raises(PayloadError, match="a sum of block 0 that can't be"):
            fresh.take(damaged)
        late = log_pb2.BlockSum.FromString(answers[0].SerializeToString())
        late.attempt = 2
        assert not fresh.take(late)

    asyncio.run(play())


def test_forged_records_and_sums_are_passed_over_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        run = Run(quiet_s=0.0)
        edge = await run.open()
        updates = [update(number) for number in range(3)]
        for one in updates:
            edge.add(one)
        forger = RunLog(run.memory, "model-updates", "r", b"f" * 32)
        for partition in range(PARTITIONS):
            uid = partition.to_bytes(4, "big") + bytes(12)
            block = log_pb2.Block(
                plan=edge._log_plan, uid=uid, number=0, weight=1, factor=1.0, values=bytes(32)
            )
            forger.put([(partition, log_pb2.LogRecord(block=block))])
            true = run.memory.topics["model-updates.r"][partition - 1]
            run.memory.topics["model-updates.r"][partition].append(true[0] if true else b"junk")
            close = log_pb2.LogClose(plan=edge._log_plan, attempt=1, uids=uid)
            forger.put([(partition, log_pb2.LogRecord(close=close))])
        forger.answer(
            [log_pb2.BlockSum(sum=edge._log_plan.sum, attempt=1, partition=p, missing=uid) for p in range(4)]
        )
        assert await run.collect(updates) == frozenset()
        assert_same(run, updates)

    asyncio.run(play())
    refused = [one for one in caplog.messages if "that nobody of this run has written there" in one]
    assert len(refused) >= 3


def test_a_sum_after_which_another_has_begun_in_the_log_is_lost_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play() -> None:
        run = Run(LARGE, quiet_s=0.0)
        edge, one = await run.open(), update(1, LARGE)
        edge.add(one)
        run.edge(edge_pb2.Open(scale=scale_message(SCALE), log=run.opened.log + 1)).add(update(2, LARGE))
        assert one.elsewhere
        assert await run.collect([one]) == {one.elsewhere.uid}

    asyncio.run(play())
    assert "(another one has begun there); its updates are asked for again" in caplog.messages[-1]
