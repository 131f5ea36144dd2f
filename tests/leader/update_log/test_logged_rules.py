"""Rules over a log have the bits of the leader's own, whoever computes them, and wherever the updates came in."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leader.aggregation.base import Contribution, Elsewhere
from leader.aggregation.robust.aggregate import RobustAggregate
from leader.aggregation.robust.coordinatewise import trimmed_mean
from leader.aggregation.robust.rows import WholeRows
from leader.aggregation.spool import Spool
from leader.aggregation.weighting import Bounded, ByExamples, Clipped
from leader.config import AggregateConfig
from leader.distributed.edge_below import Partial
from leader.distributed.messages import scale_message
from leader.update_log.log_sums import LogSums
from leader.update_log.logged_updates import LoggedUpdates
from leader.update_log.run_log import RunLog, plan_of
from model.fragments import Fragments
from model.layout import Layout
from protos import edge_pb2
from tests.leader.update_log.test_log_sums import KEY, LARGE, LAYOUT, PARTITIONS, SCALE, Run, receipt, update
from utils.errors import PayloadError, ValueRangeError
from utils.wire.payload import Payload

MEDIAN = AggregateConfig(rule="median", byzantine=1, clip_norm=2.0, reject_norm=1e6)
TRIMMED = AggregateConfig(rule="trimmed_mean", byzantine=1)


class Ruled(Run):
    """A run under a robust rule."""

    def __init__(self, layout: Layout, config: AggregateConfig, folder: Path, quiet_s: float = 0.0) -> None:
        super().__init__(layout, quiet_s)
        self.config, self.folder = config, folder
        self.values = layout.pieces()[-1].stop
        self.opened_spools: list[Spool] = []
        self.sums = LogSums(self.log, Fragments(layout), PARTITIONS, quiet_s, aggregate=config)

    def robust(self) -> RobustAggregate:
        self.opened_spools.append(Spool(self.layout, self.folder, 1 << 20))
        return RobustAggregate(self.config, self.layout, self.opened_spools[-1])

    def close(self) -> None:
        for spool in self.opened_spools:
            spool.close()

    async def begin(self) -> LoggedUpdates:
        opened = edge_pb2.Open(scale=scale_message(SCALE))
        self.sums.open(opened)
        await asyncio.gather(*self.sums._chores)
        parameters = self.layout.shared_parameter_count
        plan = plan_of(opened.log, opened.scale, parameters, self.values, PARTITIONS, self.config)
        weighting = Bounded(Clipped(ByExamples(), 2.0), 1e6) if self.config.clip_norm else ByExamples()
        return LoggedUpdates(self.layout, SCALE, weighting).to(self.log, plan)

    async def gather(self, leader: RobustAggregate, uids: dict[bytes, str]) -> frozenset[bytes]:
        """As Tree does it."""
        for number, (part, terms) in enumerate(leader.hand_over()):
            uid = number.to_bytes(16, "big")
            self.sums.put(uid, terms)
            uids[uid] = part

        async def take(partial: Partial) -> None:
            leader.merge(frozenset(uids[uid] for uid in partial.uids), partial.weights, partial.data)

        return await self.sums.collect(sorted(uids, key=uids.__getitem__), take)


def elsewhere(one: Contribution) -> Elsewhere:
    assert one.elsewhere is not None
    return one.elsewhere


@pytest.mark.parametrize("config", [MEDIAN, TRIMMED], ids=["median", "trimmed_mean"])
@pytest.mark.parametrize("layout", [LAYOUT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("count", range(3, 10))
@pytest.mark.parametrize("aggregators", [0, 2])
def test_a_rule_has_the_bits_of_one_leader(
    config: AggregateConfig, layout: Layout, count: int, aggregators: int, tmp_path: Path
) -> None:
    async def play() -> None:
        run, stop = Ruled(layout, config, tmp_path, 20.0 if aggregators else 0.0), threading.Event()
        threads = [run.aggregate(stop, *range(PARTITIONS)) for _ in range(aggregators)]
        edge, alone, leader = await run.begin(), run.robust(), run.robust()
        updates = [update(number, layout, buffers=number % 4 != 1) for number in range(count)]
        edge.add(update(99, layout))  # is refused
        for number, one in enumerate(updates):
            alone.add(one)
            if number % 3 == 2:
                leader.add(one)  # came to the leader
            else:
                edge.add(one)
                leader.count(receipt(one))
        uids = {elsewhere(one).uid: one.part for n, one in enumerate(updates) if n % 3 != 2}
        assert await run.gather(leader, uids) == frozenset()
        stop.set()
        for thread in threads:
            thread.join()
        found, expected = leader.finish(), alone.finish()
        assert found.mean.tobytes() == expected.mean.tobytes()
        assert (found.digest, found.examples) == (expected.digest, expected.examples)
        run.close()

    asyncio.run(play())


def test_one_update_that_is_lost_costs_itself_alone(tmp_path: Path) -> None:
    async def play() -> None:
        run = Ruled(LAYOUT, MEDIAN, tmp_path)
        edge, alone, leader = await run.begin(), run.robust(), run.robust()
        updates = [update(number) for number in range(5)]
        for one in updates:
            leader.count(receipt(one))
        for one in updates[1:]:
            edge.add(one)
            alone.add(one)
        uids = {elsewhere(one).uid: one.part for one in updates}
        assert await run.gather(leader, uids) == {elsewhere(updates[0]).uid}
        del uids[elsewhere(updates[0]).uid]
        with pytest.raises(PayloadError, match=r"a rule over \(4, 4\) updates; \(5, 5\) are counted"):
            await run.gather(leader, uids)
        leader.forget(frozenset([updates[0].part]))
        assert await run.gather(leader, uids) == frozenset()
        assert leader.finish().mean.tobytes() == alone.finish().mean.tobytes()
        run.close()

    asyncio.run(play())


def test_an_edge_refuses_what_the_leader_refuses_before_the_clip(tmp_path: Path) -> None:
    async def play() -> None:
        run = Ruled(LAYOUT, MEDIAN, tmp_path)
        edge, one = await run.begin(), update(1)
        values = one.payload.data.view(np.float32).copy()
        values[0] = 2000.0
        wide = Elsewhere(elsewhere(one).uid, 4e6, buffers=True)
        big = replace(one, payload=Payload(one.payload.manifest, values.view(np.uint8), 0), elsewhere=wide)
        for aggregate in (edge, run.robust()):
            with pytest.raises(ValueRangeError, match=r"finite values within \+-1024"):
                aggregate.add(big)
        run.close()

    asyncio.run(play())


def test_a_rule_of_whole_updates_is_no_rule_of_a_log(tmp_path: Path) -> None:
    async def play() -> None:
        run = Ruled(LAYOUT, MEDIAN, tmp_path)
        edge = await run.begin()
        edge._log_plan.rule = "krum"
        edge.add(update(1))
        log = RunLog(run.memory, "model-updates", "r", KEY)
        record = log._sealer.open("updates 0", run.memory.topics[log.updates][0][-1])
        with pytest.raises(PayloadError, match="a rule that no slice of the model has"):
            list(log.partition_sum(0).read(record, 0))

    asyncio.run(play())


@pytest.mark.parametrize("width", [1, 2, 50])
def test_a_trimmed_mean_has_the_same_bits_in_tiles_of_any_width(width: int) -> None:
    rng = np.random.default_rng(1)
    values = (rng.normal(size=(19, 600)) * 2.0 ** rng.integers(-60, 9, size=(19, 600))).astype(np.float32)
    parts = [trimmed_mean(WholeRows(values[:, at : at + width].copy()), 1) for at in range(0, 600, width)]
    assert np.concatenate(parts).tobytes() == trimmed_mean(WholeRows(values.copy()), 1).tobytes()
