"""A member of the group that sums: what Kafka does not take is given again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from leader.aggregator.member import Member
from leader.update_log.run_log import RunLog
from protos import log_pb2
from tests.leader.update_log.test_log_sums import KEY, Run, update
from tests.tools.kafka import MemoryLog
from utils.errors import NotReadyError


class Record:
    """One of Kafka's messages."""

    def __init__(self, offset: int, value: bytes) -> None:
        self.partition, self.offset, self.value = lambda: 0, lambda: offset, lambda: value


class Busy(RunLog):
    """A log that does not take the first sums."""

    refusals = 1

    def answer(self, sums: Iterable[log_pb2.BlockSum]) -> list[int]:
        made = list(sums)
        if made and self.refusals:
            self.refusals -= 1
            raise NotReadyError("Kafka did not take 1 of 1 records")
        return super().answer(made)


def test_a_sum_that_kafka_did_not_take_is_given_again() -> None:
    async def play() -> MemoryLog:
        run = Run(quiet_s=0.0)
        edge = await run.open()
        for one in (update(number) for number in range(12)):
            edge.add(one)
            await run.collect([one])
        return run.memory

    memory = asyncio.run(play())
    records = list(memory.topics["model-updates.r"][0])
    memory.topics.pop("model-sums.r")
    log = Busy(memory, "model-updates", "r", KEY)
    member = Member(cast(Any, None), log)
    for offset, value in enumerate(records):
        member._take(cast(Any, None), cast(Any, Record(offset, value)))
    asked = [log._sealer.open("updates 0", value).close for value in records]
    answered = {
        one.attempt for one in (log._sealer.open("sums", v).sum for v in memory.topics["model-sums.r"][0])
    }
    assert log.refusals == 0
    assert answered == {one.attempt for one in asked if one.attempt} != set()
