"""A worker by itself: what ends an order whenever that comes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from grpc import aio

from learner.memory import Memory
from learner.training.trainer import Begun, Trainer
from learner.training.update import Assignment, CancelledError, Progress
from learner.wire.connection import Connection
from learner.wire.edges import Edges
from learner.work.worker import Worker
from model.image_classification import Shard
from protos import leader_pb2
from tests.learner.test_app import MODEL_FILE, ORDER, TOOLS
from utils.wire.contract import LeaderStub
from utils.wire.framing import unframe

TIMEOUT_S = 60.0
RUN = leader_pb2.RunDescription(run_id="r", model="resnet20", norm="batch", classes=3, chunk_bytes=1 << 16)
SHARD = Shard(np.zeros((4, 3, 32, 32), np.uint8), np.arange(4) % 3)


def test_an_order_that_ends_just_as_its_training_begins_is_not_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[int] = []

    async def scenario() -> None:
        loop, begin = asyncio.get_running_loop(), Trainer.begin
        worker = Worker(TOOLS, Memory(), "", Edges(aio.insecure_channel), SHARD)

        async def commit() -> None:
            worker.committed(ORDER.round)

        def late(self: Trainer, assignment: Assignment, progress: Progress) -> Begun:
            asyncio.run_coroutine_threadsafe(commit(), loop).result(TIMEOUT_S)
            return begin(self, assignment, lambda done, total, rate: trained.append(done))

        monkeypatch.setattr(Trainer, "begin", late)
        async with aio.insecure_channel("127.0.0.1:1") as channel:
            worker.connect(Connection(LeaderStub(channel), b"token", "a", RUN))
            worker.order(ORDER, b"".join(unframe(message) or b"" for message in MODEL_FILE))
            with pytest.raises(CancelledError, match="round 1 is over"):
                await worker._do(await worker._next())
            await worker.close()

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))
    assert trained == []
