"""A learner whose transfer fails while its control goes on registers again, and the order gets done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from operator import methodcaller
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
import torch
from grpc import aio
from torch import Tensor, nn

from leader.global_model.versions import VersionStore
from learner.app import App, Own, open_own
from learner.options import LearnerOptions
from learner.work.workbench import Tools
from model.flat import FlatModel
from model.image_classification import ImageClassification, Shard
from model.registry import build_model
from protos import leader_pb2, learner_pb2, learner_pb2_grpc
from tests.tools.grpc_server import started
from tests.tools.ports import closed_address
from utils.errors import DataError, ForbiddenError
from utils.wire.framing import unframe
from utils.wire.rpc import SERVICE, raw

CPU = torch.device("cpu")
TOOLS = Tools(CPU)
MODEL = FlatModel(build_model("resnet20", classes=3), CPU)
MODEL_FILE = VersionStore(MODEL.layout, 1 << 20).encode(9, np.zeros(MODEL.layout.total, np.float32)).messages
ORDER = leader_pb2.WorkOrder(
    work_id="w" * 32, round=1, version=9, exchange="delta", local_steps=1, batch_size=2, dtype="float32"
)
ORDER.schedule.kind, ORDER.schedule.lr = "constant", 0.1
SERIALISED = methodcaller("SerializeToString")
Context = aio.ServicerContext[Any, Any]
Failure = tuple[Any, ...]  # what ServicerContext.abort takes


class Leader:
    """Gives one order to whoever registers, until its update is here; `failures` come first, one a call.

    Control stays up all the while: only the learner can end it.
    """

    def __init__(self, method: str, failures: list[Failure], order: leader_pb2.WorkOrder = ORDER) -> None:
        self.order = order
        self.pulled: list[leader_pb2.Empty] = []
        self.tokens: list[bytes] = []  # that learners registered with
        self.taken = asyncio.Event()
        self.updates: list[leader_pb2.UpdateHeader] = []
        self.told: list[leader_pb2.Failure] = []
        self._method = method
        self._failures = failures

    async def _fail(self, method: str, context: Context) -> None:
        if method == self._method and self._failures:
            await context.abort(*self._failures.pop(0))

    async def register(self, info: leader_pb2.LearnerInfo, context: Context) -> leader_pb2.AckWithMetadata:
        """RegisterLearner."""
        self.tokens.append(info.token)
        run = leader_pb2.RunDescription(
            run_id="r", model="resnet20", norm="batch", classes=3, heartbeat_s=60.0, chunk_bytes=1 << 16
        )
        token = f"token {len(self.tokens)}".encode()
        return leader_pb2.AckWithMetadata(success=True, learner_id=1, token=token, name="a", run=run)

    async def session(
        self, messages: AsyncIterator[leader_pb2.LearnerMessage], context: Context
    ) -> AsyncIterator[leader_pb2.LeaderMessage]:
        """Session: the order at its beginning, stop when the update is here."""
        yield leader_pb2.LeaderMessage(work=self.order)
        ends = [asyncio.ensure_future(self.taken.wait()), asyncio.ensure_future(self._listen(messages))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if self.taken.is_set():
            yield leader_pb2.LeaderMessage(stop=leader_pb2.Stop(reason="all done", finished=True))

    async def _listen(self, messages: AsyncIterator[leader_pb2.LearnerMessage]) -> bool:
        async for message in messages:
            if message.HasField("failure"):
                self.told.append(message.failure)
        return True

    async def get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        """GetWork."""
        return leader_pb2.WorkOrders(orders=() if self.taken.is_set() else (self.order,))

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> AsyncIterator[bytes]:
        """GetModel."""
        self.pulled.append(request)
        await self._fail("GetModel", context)
        for message in MODEL_FILE:
            yield message

    async def get_upload(
        self, request: leader_pb2.UploadRequest, context: Context
    ) -> leader_pb2.UploadStatus:
        """GetUpload."""
        return leader_pb2.UploadStatus()

    async def accumulate(self, messages: AsyncIterator[bytes], context: Context) -> leader_pb2.Ack:
        """AccumulateGradients."""
        stream = aiter(messages)
        header = leader_pb2.GradientData.FromString(await anext(stream)).header
        chunks = [unframe(message) or b"" async for message in stream]
        # Not before: grpc.aio often drops the status of a stream that ends while it is written.
        await self._fail("AccumulateGradients", context)
        assert sum(map(len, chunks)) == header.total_bytes
        self.updates.append(header)
        self.taken.set()
        return leader_pb2.Ack(success=True)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service."""
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "RegisterLearner": unary(self.register, leader_pb2.LearnerInfo.FromString, SERIALISED),
            "GetWork": unary(self.get_work, leader_pb2.WorkRequest.FromString, SERIALISED),
            "GetUpload": unary(self.get_upload, leader_pb2.UploadRequest.FromString, SERIALISED),
            "GetModel": grpc.unary_stream_rpc_method_handler(
                self.get_model, leader_pb2.Empty.FromString, raw
            ),
            "AccumulateGradients": grpc.stream_unary_rpc_method_handler(self.accumulate, raw, SERIALISED),
            "Session": grpc.stream_stream_rpc_method_handler(
                self.session, leader_pb2.LearnerMessage.FromString, SERIALISED
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


async def stop_dialled(leader: Leader, address: str) -> None:
    """Tell the learner at `address` that the run is over, once its update is here."""
    await leader.taken.wait()
    async with aio.insecure_channel(address) as channel:
        stop = learner_pb2_grpc.LearnerServiceStub(channel).StopTraining
        await stop(learner_pb2.StopNotice(reason="all done", finished=True))


def learn(
    leader: Leader,
    *,
    dialled: bool,
    tools: Tools = TOOLS,
    ends_itself: bool = False,
    made: Callable[[App], object] = lambda app: None,
) -> None:
    """Run a learner with own data against `leader` until it is told to stop, or by itself; `made` is given it."""
    shard = Shard(np.zeros((4, 3, 32, 32), np.uint8), np.arange(4) % 3)
    own = Own(shard, leader_pb2.OwnData(examples=4, classes=3))

    async def scenario() -> None:
        server = aio.server()
        server.add_generic_rpc_handlers((leader.handler(),))
        address = closed_address() if dialled else ""
        async with started(server) as leaders, asyncio.timeout(60):
            app = App(LearnerOptions(leader=leaders, network_addr=address), tools, own)
            made(app)
            await asyncio.gather(
                app.run(), *([stop_dialled(leader, address)] if dialled and not ends_itself else [])
            )

    asyncio.run(scenario())


@pytest.mark.parametrize("dialled", [False, True], ids=["session", "dialled"])
@pytest.mark.parametrize(
    ("method", "failure"),
    [
        ("AccumulateGradients", (grpc.StatusCode.UNKNOWN, "Stream removed")),
        ("AccumulateGradients", (grpc.StatusCode.DEADLINE_EXCEEDED, "leader: no bytes for 60 s")),
        ("AccumulateGradients", (grpc.StatusCode.UNAUTHENTICATED, "leader: unknown session token")),
        ("GetModel", (grpc.StatusCode.CANCELLED, "upstream reset")),
    ],
)
def test_a_learner_whose_transfer_fails_registers_again_and_does_its_order(
    method: str, failure: Failure, dialled: bool
) -> None:
    leader = Leader(method, [failure, failure])
    learn(leader, dialled=dialled)
    assert leader.tokens == [b"", b"token 1", b"token 2"]
    [update] = leader.updates
    assert (update.token, update.work_id) == (b"token 3", ORDER.work_id)


@pytest.mark.parametrize("dialled", [False, True], ids=["session", "dialled"])
def test_an_upload_that_breaks_without_a_reason_goes_on_over_the_same_connection(dialled: bool) -> None:
    leader = Leader("AccumulateGradients", [(grpc.StatusCode.INTERNAL, "Internal error from Core")])
    learn(leader, dialled=dialled)
    assert leader.tokens == [b""]
    assert [update.token for update in leader.updates] == [b"token 1"]


@pytest.mark.parametrize("dialled", [False, True], ids=["session", "dialled"])
@pytest.mark.parametrize("method", ["GetModel", "AccumulateGradients"])
def test_a_transfer_that_must_wait_goes_on_over_the_same_connection(method: str, dialled: bool) -> None:
    busy = (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "leader: more than 50 calls a second; try again in 0.1 s",
        (("flockstep-error", "BusyError"), ("retry-after-ms", "100")),
    )
    leader = Leader(method, [busy, busy])
    began = time.monotonic()
    learn(leader, dialled=dialled)
    assert time.monotonic() - began >= 0.2
    assert leader.tokens == [b""]
    assert [update.token for update in leader.updates] == [b"token 1"]


@pytest.mark.parametrize("dialled", [False, True], ids=["session", "dialled"])
@pytest.mark.parametrize("method", ["GetModel", "AccumulateGradients"])
@pytest.mark.parametrize(
    "refusal",
    [
        (
            grpc.StatusCode.PERMISSION_DENIED,
            "leader: a was revoked",
            (("flockstep-error", "ForbiddenError"),),
        ),
        (grpc.StatusCode.PERMISSION_DENIED, "RBAC: access denied"),
    ],
    ids=["leader", "gateway"],
)
def test_a_learner_whose_transfer_is_forbidden_ends_and_says_nothing_more(
    method: str, dialled: bool, refusal: Failure
) -> None:
    leader = Leader(method, [refusal])
    with pytest.raises(ForbiddenError, match=r"a was revoked|RBAC: access denied") as caught:
        learn(leader, dialled=dialled, ends_itself=True)
    assert caught.value.exit_code == 7
    assert leader.tokens == [b""]
    assert leader.told == []


def test_a_learner_that_is_told_to_leave_while_it_registers_says_goodbye() -> None:
    apps: list[App] = []

    class Slow(Leader):
        """Has the learner told to leave before it is registered, and notes its goodbye."""

        goodbyes: ClassVar[list[str]] = []

        async def register(
            self, info: leader_pb2.LearnerInfo, context: Context
        ) -> leader_pb2.AckWithMetadata:
            apps[0].leave("stopped by SIGTERM")
            return await super().register(info, context)

        async def _listen(self, messages: AsyncIterator[leader_pb2.LearnerMessage]) -> bool:
            async for message in messages:
                if message.HasField("goodbye"):
                    self.goodbyes.append(message.goodbye.reason)
            return True

    leader = Slow("", [])
    learn(leader, dialled=False, ends_itself=True, made=apps.append)
    assert leader.goodbyes == ["stopped by SIGTERM"]


class Quoting(ImageClassification):
    """A task with a bug that quotes an example."""

    def build_model(self, seed: int) -> nn.Module:
        """That of the run."""
        return build_model("resnet20", classes=3, seed=seed)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Never a loss."""
        raise ValueError("patient 007 is ill")


def test_a_bug_in_the_task_is_shown_here_and_told_to_the_leader_without_its_words() -> None:
    leader = Leader("", [])
    with pytest.raises(ValueError, match="patient 007"):
        learn(leader, dialled=False, tools=Tools(CPU, Quoting()))
    assert [(failure.work_id, failure.message) for failure in leader.told] == [
        (ORDER.work_id, "ValueError in its task; see the learner's output")
    ]
    assert leader.updates == []


class Given(ImageClassification):
    """A task whose data is what it was told to find."""

    found: ClassVar[Shard | None] = None

    def open_data(self, path: Path | None, *, train: bool) -> Shard | None:  # type: ignore[override]
        """The shard."""
        assert train
        return self.found


def test_own_data_is_what_the_task_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LearnerOptions(leader="h:1")
    assert open_own(options, None) is None
    for found in (None, Shard(np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0, np.int64))):
        monkeypatch.setattr(Given, "found", found)
        with pytest.raises(DataError, match="no training examples by itself; name a place with --data"):
            open_own(options, Given())
    monkeypatch.setattr(Given, "found", Shard(np.zeros((4, 3, 1, 1), np.uint8), np.zeros(4, np.int64)))
    own = open_own(options, Given())
    assert own is not None
    assert own.said == leader_pb2.OwnData(examples=4)
