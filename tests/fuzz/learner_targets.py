"""Targets for every RPC of a learner that the leader can dial; the leader's answers to it are mutated too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import safetensors.numpy
import torch

from learner.control.dialled import LearnerServer
from learner.memory import Memory
from learner.options import LearnerOptions
from learner.trust.access import Access
from learner.wire.connection import Connection
from learner.wire.edges import Edges
from learner.work.workbench import Tools
from learner.work.worker import Worker
from model.image_classification import Shard
from protos import leader_pb2, learner_pb2
from tests.fuzz.channel import Answers, Context, RefusedError, as_channel, find_method
from tests.fuzz.files import File, data_file, model_file, mutated
from tests.fuzz.mutator import Mutator
from tests.fuzz.runner import AsyncTarget
from utils.wire.contract import LeaderStub

_FORGET_EVERY = 500  # inputs between two reconnects


class LearnerTarget(AsyncTarget):
    """One RPC of a learner in this process that has registered with a leader."""

    def __init__(self, server: LearnerServer, worker: Worker, answers: Answers, seed: int) -> None:
        self.mutator = Mutator(seed)
        self.answers = answers
        self._worker = worker
        self._handler = find_method(server.handler(), f"/learner.LearnerService/{self.name}")
        self._fed = 0

    async def feed(self, message: bytes) -> str:
        """Call the method with one raw message."""
        self.last = message
        self._fed += 1
        if self._fed % _FORGET_EVERY == 0:  # what a broken connection does
            self._worker.disconnect()
        try:
            request = self._handler.request_deserializer(message)
            ack: learner_pb2.Ack = await self._handler.unary_unary(request, Context("ipv4:10.0.0.1:1"))
        except RefusedError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return error.code.name
        return "done" if ack.success else "not done"


class StartTarget(LearnerTarget):
    """StartTraining: the learner takes the orders that the leader's answer holds, or says why not."""

    name = "StartTraining"

    async def step(self) -> str:
        """Start training."""
        order = leader_pb2.WorkOrder(
            work_id=f"w{self.mutator.below(50)}",
            round=1,
            version=7,
            seed=3,
            exchange="delta",
            local_steps=4,
            batch_size=16,
        )
        self.answers.answer = [self.mutator.message(leader_pb2.WorkOrders(orders=[order, order]))]
        return await self.feed(self.mutator.message(learner_pb2.Empty()))


class SyncTarget(LearnerTarget):
    """SyncModelState: noted, whatever it says."""

    name = "SyncModelState"

    def __init__(self, server: LearnerServer, worker: Worker, answers: Answers, seed: int) -> None:
        super().__init__(server, worker, answers, seed)
        self._model = File.of(model_file(seed))

    async def step(self) -> str:
        """Tell of a new version."""
        chunk = mutated(self.mutator, self._model) if self.mutator.chance(0.3) else b""
        state = learner_pb2.ModelState(chunk=chunk, version=self.mutator.below(100), committed_round=1)
        return await self.feed(self.mutator.message(state))


class StopTarget(LearnerTarget):
    """StopTraining: noted, whatever it says."""

    name = "StopTraining"

    async def step(self) -> str:
        """Stop."""
        return await self.feed(self.mutator.message(learner_pb2.StopNotice(reason="all done", finished=True)))


TARGETS: tuple[type[LearnerTarget], ...] = (StartTarget, SyncTarget, StopTarget)


@asynccontextmanager
async def in_process_learner() -> AsyncIterator[tuple[LearnerServer, Worker, Answers]]:
    """A registered learner whose leader's answers are what is put into `Answers`."""
    arrays = safetensors.numpy.load(data_file(0))
    own = Shard(arrays["images"], arrays["labels"])
    access = Access(LearnerOptions(leader="127.0.0.1:1"))
    worker = Worker(Tools(torch.device("cpu")), Memory(), "", Edges(access.dial), own)
    server = LearnerServer("127.0.0.1:0", worker, access)
    answers = Answers()
    answers.answer = [b""]  # no orders yet
    run = leader_pb2.RunDescription(run_id="r", model="resnet20", norm="batch", classes=3, heartbeat_s=3600.0)
    connection = Connection(LeaderStub(as_channel(answers)), b"t" * 16, "a", run)
    worker.connect(connection)
    serving = asyncio.ensure_future(server.run(connection))
    await asyncio.sleep(0)
    try:
        yield server, worker, answers
    finally:
        serving.cancel()
        await asyncio.wait((serving,))
        await worker.close()
        await server.close()
