"""Masked updates in a log: their words add up to those of one leader, whoever adds them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import numpy as np
import pytest

from leader.aggregation.base import Contribution, Elsewhere
from leader.distributed.messages import scale_message
from leader.secagg.masked_sum import MaskedSum, words_of
from leader.update_log.arithmetic import Arithmetic
from leader.update_log.log_sums import LogSums
from leader.update_log.logged_updates import LoggedWords
from leader.update_log.run_log import RunLog, plan_of
from model.fragments import Fragments
from model.layout import Layout
from protos import edge_pb2, leader_pb2, log_pb2
from tests.leader.update_log.test_log_sums import KEY, LARGE, LAYOUT, PARTITIONS, SCALE, aggregator, collected
from tests.secagg import plan as mask_plan
from tests.tools.kafka import MemoryLog
from utils.errors import PayloadError
from utils.secagg.update import VALUES, WIDE
from utils.wire.payload import Payload, encode_header, parse_header

NOISE = leader_pb2.NoisePlan(bit_levels=1)


class Masked:
    """A leader's and an edge's ends of a log in memory, and one masked sum after the other."""

    def __init__(self, layout: Layout, bits: int, noise: leader_pb2.NoisePlan | None = None) -> None:
        self.layout, self.bits, self.noise = layout, bits, noise
        self.plan = mask_plan(6, bits=bits)
        self.memory = MemoryLog()
        self.log = RunLog(self.memory, "model-updates", "r", KEY)
        self.sums = LogSums(self.log, Fragments(layout), PARTITIONS, 0.0)

    def sum(self) -> MaskedSum:
        return MaskedSum(self.layout, self.plan, SCALE, self.noise)

    async def open(self) -> LoggedWords:
        self.leader = self.sum()
        self.opened = edge_pb2.Open(scale=scale_message(SCALE), masking=self.plan, noise=self.noise)
        self.sums.open(self.opened)
        await asyncio.gather(*self.sums._chores)
        values, wide = words_of(self.layout, self.plan, self.noise)
        sizes = values, values + wide, PARTITIONS
        plan = plan_of(self.opened.log, self.opened.scale, *sizes, bits=self.bits)
        return LoggedWords(self.layout, self.plan, SCALE, self.noise).to(self.log, plan)

    def update(self, number: int) -> Contribution:
        values, wide = words_of(self.layout, self.plan, self.noise)
        tensors = [(VALUES, f"I{self.bits}", (values,)), (WIDE, "I64", (wide,))]
        manifest, rng = parse_header(encode_header(tensors)), np.random.default_rng(number)
        data = np.frombuffer(rng.bytes(values * self.bits // 8 + 8 * wide), np.uint8)
        uid = rng.bytes(16)
        return Contribution(
            uid.hex(), 1, Payload(manifest, data, number), 0.0, elsewhere=Elsewhere(uid, 0.0, False)
        )

    async def collect(self, members: Iterable[Contribution]) -> frozenset[bytes]:
        return await collected(self.sums, self.leader, members)


@pytest.mark.parametrize("layout", [LAYOUT, LARGE], ids=["by update", "by slice"])
@pytest.mark.parametrize(("bits", "noise"), [(16, None), (32, None), (64, None), (32, NOISE), (16, NOISE)])
def test_words_add_up_to_those_of_one_leader(
    layout: Layout, bits: int, noise: leader_pb2.NoisePlan | None
) -> None:
    async def play() -> None:
        run = Masked(layout, bits, noise)
        for exchange in range(2):
            edge = await run.open()
            updates = [run.update(10 * exchange + n) for n in range(6)]
            for one in (*updates, updates[0]):
                edge.add(one)
            members, whole = updates[1:], run.sum()  # the first is not counted
            assert await run.collect(members) == frozenset()
            for one in members:
                whole.add(one)
            assert run.leader.values.tobytes() == whole.values.tobytes()
            assert run.leader.wide.tobytes() == whole.wide.tobytes()
            assert sorted(run.leader.parts) == sorted(whole.parts)

    asyncio.run(play())


def test_aggregators_add_words_as_the_leader_does() -> None:
    async def play() -> None:
        run, stop = Masked(LARGE, 32), threading.Event()
        run.sums._quiet_s = 20.0
        edge, whole = await run.open(), run.sum()
        updates = [run.update(number) for number in range(4)]
        for one in updates:
            edge.add(one)
            whole.add(one)
        thread = aggregator(run.log, run.memory, stop, range(PARTITIONS))
        try:
            assert await run.collect(updates) == frozenset()
        finally:
            stop.set()
            thread.join()
        assert run.leader.values.tobytes() == whole.values.tobytes()

    asyncio.run(play())


@pytest.mark.parametrize(
    "wrong", [{"weight": 2}, {"factor": 0.5}, {"values": bytes(7)}, {"weight": 0, "values": b""}], ids=str
)
def test_a_block_that_is_none_of_a_masked_update_is_refused(wrong: dict[str, object]) -> None:
    async def play() -> None:
        run = Masked(LAYOUT, 32)
        edge = await run.open()
        edge.add(run.update(1))
        log = run.log
        ((partition, there),) = run.memory.topics[log.updates].items()
        record = log._sealer.open(f"updates {partition}", there[-1])
        fresh = log_pb2.LogRecord()
        fresh.CopyFrom(record)
        for name, value in wrong.items():
            setattr(fresh.block, name, value)
        with pytest.raises(PayloadError):
            list(log.partition_sum(partition).read(fresh, 0))
        list(log.partition_sum(partition).read(record, 0))

    asyncio.run(play())


def test_no_rule_is_made_of_masked_words_and_no_word_has_an_odd_size() -> None:
    plan = plan_of(1, scale_message(SCALE), 8, 10, 1, bits=32)
    plan.rule = "median"
    with pytest.raises(PayloadError, match="a rule that no slice of the model has"):
        Arithmetic(plan)
    with pytest.raises(PayloadError, match="of an impossible size"):
        Arithmetic(plan_of(1, scale_message(SCALE), 8, 10, 1, bits=24))
