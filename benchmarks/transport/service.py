"""Flockstep's own service and the learner's own transfers, without rounds: every update goes into one sum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from grpc import aio
from numpy.typing import NDArray

from benchmarks.transport.wire import DOWN, Job
from leader.aggregation.base import Aggregator, Contribution
from leader.aggregation.choose import open_aggregate
from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.data.dataset import Data
from leader.global_model.initial import open_origin
from leader.initial_state import initial_state
from leader.learners.membership import Member
from leader.rpc.service import LeaderService
from leader.runtime import Host
from leader.training.coordinator import Coordinator
from leader.training.inbox import Inbox, Upload
from leader.training.work_desk import WorkDesk
from leader.wiring import Wiring
from learner.training.update import Update
from learner.wire.connection import Endpoint
from learner.wire.encoding import Coding
from learner.wire.transfer import pull_model, push
from learner.wire.whole_update import HeldUpdate
from model.layout import Layout
from model.registry import build_model
from protos import leader_pb2
from utils.datasets import synthetic_shapes
from utils.version import PROTOCOL
from utils.wire.contract import LeaderStub

MODEL = "resnet18"
_WORK = "benchmark"
_VERSION = 1
_MOST_UPDATES = 1 << 20  # of weight 1, in one run of the benchmark
_TIMEOUT_S = 60.0


class Sink(WorkDesk):
    """A desk without rounds: it wants the same work for ever, and sums what comes."""

    def __init__(self, coordinator: Coordinator, total: Aggregator, host: Host) -> None:
        versions = coordinator.versions
        super().__init__(
            coordinator.workforce, versions, Inbox(), host.clock, lambda: False, coordinator.stop
        )
        self._total = total
        self._host = host

    def check(self, member: Member, work_id: str) -> None:
        """The only work that there is is always open, and everybody's."""

    async def submit(
        self, member: Member, upload: Upload, work_id: str, piece: leader_pb2.Piece | None = None
    ) -> None:
        """Add the update where the coordinator does it: in its one thread for arithmetic."""
        contribution = Contribution(_WORK, 1, upload.payload, 0.0)
        await self._host.compute(self._total.add, contribution)


def make_service(chunk_bytes: int) -> LeaderService:
    """The leader's service with ResNet-18, at this chunk size."""
    config = RunConfig.model_validate(
        {"model": {"name": MODEL}, "limits": {"chunk_bytes": chunk_bytes}, "data": {"source": "synthetic"}}
    )
    one = synthetic_shapes(1, 1).train  # a learner that brings no data may only come where there are some
    origin = open_origin(config, classes=len(one.classes))
    state = initial_state(config, origin)
    wiring, host = Wiring(config, origin, state, Data(one.name, one, None, len(one.classes))), Host()
    total = open_aggregate(config, origin.layout, Scale.of(config.aggregate.max_abs, _MOST_UPDATES), None)
    coordinator = wiring.coordinator
    coordinator.desk = Sink(coordinator, total, host)
    coordinator.versions.publish(coordinator.versions.encode(_VERSION, state.vector))
    return wiring.service()


@cache
def model_layout() -> Layout:
    """Of ResNet-18."""
    return Layout.of(build_model(MODEL))


def model_bytes() -> int:
    """Size of ResNet-18's tensors."""
    return 4 * model_layout().total


def some_values() -> NDArray[np.float32]:
    """An update of ResNet-18, (total,): small normal values."""
    return np.random.default_rng(0).standard_normal(model_layout().total, np.float32) * np.float32(1e-3)


@dataclass(frozen=True)
class ServiceLearner:
    """A registered learner."""

    leader: Endpoint
    order: leader_pb2.WorkOrder
    layout: Layout
    held: HeldUpdate
    chunk_bytes: int

    @classmethod
    async def open(cls, layout: Layout, update: NDArray[np.float32], channel: aio.Channel) -> ServiceLearner:
        """Register, and make the update that is sent each time."""
        stub = LeaderStub(channel)
        info = leader_pb2.LearnerInfo(protocol=PROTOCOL, control=leader_pb2.CONTROL_SESSION)
        reply = await stub.register(info, _TIMEOUT_S)
        order = leader_pb2.WorkOrder(work_id=_WORK, version=_VERSION)
        file, _ = Coding(reply.run, layout).encode(order, update, {})
        held = HeldUpdate.of(order, Update(update, 1, 1, 0.0, 0.0), file)
        return cls(Endpoint(stub, reply.token), order, layout, held, reply.run.chunk_bytes)

    async def move(self, job: Job) -> None:
        """One transfer, as the learner makes it."""
        if job.direction == DOWN:
            await pull_model(self.leader, self.order, self.layout)
        else:
            await push(self.leader, self.held, self.chunk_bytes)
