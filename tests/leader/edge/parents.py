"""An edge's parent that says what a test wants, and learners with updates: over real gRPC, in one process."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from grpc import aio
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere
from leader.aggregation.decoding import Decoder
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import make_weighting
from leader.config import RunConfig
from leader.config.yaml_file import SCHEMA
from leader.distributed import contract
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hooks, Hub
from leader.distributed.messages import layout_message, scale_message
from leader.distributed.service import edge_handler
from leader.distributed.ticket import seal
from leader.edge.app import App
from leader.edge.options import EdgeOptions
from leader.edge.service import refuse_call
from leader.rpc.server import serving
from leader.trust.access.guard import Guard
from leader.trust.access.listeners import Ports
from leader.trust.identities.callers import Anybody
from learner.training.update import Update
from learner.wire.encoding import Coding
from learner.wire.whole_update import HeldUpdate
from model.layout import Layout
from protos import edge_pb2, leader_pb2
from tests.clusters import TINY, Settings
from utils.errors import WireError
from utils.wire.contract import GET_MODEL, Context, LeaderStub, serve
from utils.wire.framing import frames
from utils.wire.payload import Manifest, Payload, PayloadReader
from utils.wire.rpc import SERVICE, channel_options

LAYOUT = Layout.of(nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.Linear(40, 7)))
SCALE = Scale.of(1024.0, 10_000)
KEY = b"k" * 32
VERSION = 77
MODEL = np.random.default_rng(1).bytes(3 << 20)
HELLO = edge_pb2.EdgeUp(hello=edge_pb2.EdgeHello(protocol=contract.VERSION, release="test", name="scripted"))


def config_of(settings: Settings) -> RunConfig:
    """A run's config, by dotted keys."""
    given = {**TINY, "learners": 4, "edges.listen": "127.0.0.1:0", **settings}
    return SCHEMA.build(SCHEMA.from_text(("test", key, str(value)) for key, value in given.items()))


@dataclass(eq=False)
class Parent:
    """What is above an edge: a hub that judges as it is told to, and counts as a leader does."""

    config: RunConfig
    run_id: str = "run"
    refuses: dict[str, WireError] = field(default_factory=dict)  # by work id
    held: set[str] = field(default_factory=set)  # work ids whose receipts get no verdict
    receipts: list[edge_pb2.Receipt] = field(default_factory=list)
    models: list[tuple[int, int | None]] = field(default_factory=list)  # asked for
    lost: set[bytes] = field(default_factory=set)
    may_send: asyncio.Event = field(default_factory=asyncio.Event)  # the second half of the model
    uids: list[bytes] = field(default_factory=list)  # counted, and not in the sum
    round: int = 0
    address: str = ""

    def __post_init__(self) -> None:
        self.changed = asyncio.Condition()
        self.may_send.set()
        self.weighting = make_weighting(self.config)
        self.sum = Aggregate(LAYOUT, SCALE, self.weighting)
        silent_s = self.config.cohort.lease_s
        hooks = Hooks(
            lost=self.lost.update,
            serves=lambda name, addresses: self._tell(),
            left=self._tell,
            changed=self._tell,
        )
        self.hub = Hub(self._welcome, self._submit, silent_s=silent_s, sum_s=20.0, hooks=hooks)

    @asynccontextmanager
    async def listening(self, at: str = "127.0.0.1:0") -> AsyncIterator[Parent]:
        """Serve edges; who is there at the end is told of it, and nobody waited for who has left or is lost."""
        handlers = {
            contract.SERVICE: edge_handler(lambda: self.hub, refuse_call),
            SERVICE: serve({GET_MODEL: self._get_model}, refuse_call),
        }
        ports = Ports(self.config, Guard(Anybody(), self.config.limits, lambda *_: None))
        async with serving(self.config.limits, at, handlers, ports) as self.address:
            yield self
            self.hub.end("over")

    def _welcome(self) -> edge_pb2.Welcome:
        return edge_pb2.Welcome(
            run_id=self.run_id,
            key=KEY,
            config=self.config.model_dump_json(by_alias=True, exclude={"services", "trust", "web"}),
            layout=layout_message(LAYOUT),
            heartbeat_s=self.config.cohort.lease_s / 2,
        )

    def open(self, round_: int) -> None:
        """An exchange begins."""
        self.round = round_
        self.sum = Aggregate(LAYOUT, SCALE, self.weighting)
        self.uids.clear()
        self.hub.open(edge_pb2.Open(round=round_, scale=scale_message(SCALE)), self.sum.sum_bytes)

    def _tell(self, name: str = "") -> None:
        asyncio.ensure_future(self._notify())  # noqa: RUF006

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(condition)

    async def _submit(self, receipt: edge_pb2.Receipt) -> None:
        self.receipts.append(receipt)
        await self._notify()
        work = receipt.header.work_id
        await self.until(lambda: work not in self.held)
        if refusal := self.refuses.get(work):
            raise refusal
        ticket = edge_pb2.Ticket.FromString(receipt.ticket[32:])
        elsewhere = Elsewhere(receipt.uid, receipt.squared_norm, receipt.buffers)
        empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), receipt.header.crc32)
        self.sum.count(contribution(receipt.uid.hex(), receipt.header, ticket, empty, elsewhere))
        self.uids.append(receipt.uid)

    async def gather(self) -> frozenset[bytes]:
        """Have the sums of all that counts; what is lost."""

        async def take(partial: Partial) -> None:
            parts = frozenset(uid.hex() for uid in partial.uids)
            self.sum.merge(parts, partial.weights, partial.data)

        uids, self.uids = self.uids, []
        lost = await self.hub.collect(uids, take)
        self.sum.forget(frozenset(uid.hex() for uid in lost))
        return lost

    async def _get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        self.models.append((request.version, request.have if request.HasField("have") else None))
        await self._notify()
        for at, message in enumerate(frames(b"", np.frombuffer(MODEL, np.uint8).data, 1 << 20)):
            if at:
                await self.may_send.wait()
            await context.write(message)


def contribution(
    part: str,
    header: leader_pb2.UpdateHeader,
    ticket: edge_pb2.Ticket,
    payload: Payload,
    elsewhere: Elsewhere | None = None,
) -> Contribution:
    """What an update adds."""
    start_loss = header.start_loss if header.HasField("start_loss") else float("nan")
    facts = (header.loss, ticket.local_steps, start_loss)
    return Contribution(part, header.examples, payload, *facts, elsewhere=elsewhere)


class Learner:
    """One update, and how it is sent."""

    def __init__(self, number: int, parent: Parent) -> None:
        self.config = parent.config
        self.ticket = edge_pb2.Ticket(
            run_id="run",
            work_id=f"{parent.round}-0-{number:032x}",
            learner_id=number,
            round=parent.round,
            version=VERSION,
            examples=50,
            local_steps=1 + number % 3,
            until=1 << 40,
        )
        self.order = leader_pb2.WorkOrder(
            work_id=self.ticket.work_id,
            round=parent.round,
            version=VERSION,
            exchange="delta",
            local_steps=self.ticket.local_steps,
            seed=number,
        )
        values = np.random.default_rng(number).normal(size=LAYOUT.total).astype(np.float32)
        run = leader_pb2.RunDescription(
            codec_up=self.config.codec.up_spec, piece_bytes=self.config.codec.piece_bytes
        )
        file, _ = Coding(run, LAYOUT).encode(self.order, values, {})
        update = Update(values, 10 + number, 8, 0.5, 1.0, start_loss=1.0 + number)
        self.held = HeldUpdate.of(self.order, update, file)

    @property
    def sealed(self) -> bytes:
        """Its ticket as it goes along."""
        return seal(KEY, self.ticket)

    def contribution(self) -> Contribution:
        """What the leader would add of it."""
        limits = self.config.limits
        decoder = Decoder(self.config.codec, LAYOUT, header_bytes=limits.header_bytes)
        data = self.held.file.header + bytes(self.held.file.body.data)
        reader = PayloadReader(
            max_bytes=len(data),
            header_bytes=decoder.header_bytes,
            accept=decoder.check,
            max_tensors=limits.tensors,
            max_name=limits.name_length,
        )
        reader.feed(memoryview(data))
        payload = decoder.decode(reader.finish(zlib.crc32(data)))
        return contribution(f"{self.ticket.learner_id}", self.held.said, self.ticket, payload)

    def messages(self, chunk_bytes: int = 4096) -> Iterator[bytes]:
        """Its upload."""
        return self.held.messages(b"", chunk_bytes, ticket=self.sealed)

    def send(self, stub: LeaderStub) -> Awaitable[leader_pb2.Ack]:
        """Send the update."""
        return stub.accumulate(self.messages())


def mean_of(parent: Parent, *learners: Learner) -> bytes:
    """The bits of the mean of their updates in one sum."""
    total = Aggregate(LAYOUT, SCALE, parent.weighting)
    for learner in learners:
        total.add(learner.contribution())
    return total.finish().mean.tobytes()


@asynccontextmanager
async def edge_of(parent: Parent, **options: Any) -> AsyncIterator[App]:
    """An edge that has joined."""
    before = len(parent.hub.addresses)
    app = App(EdgeOptions.model_validate({"leader": parent.address, "name": "e", **options}))
    running = asyncio.ensure_future(app.run())
    try:
        await parent.until(lambda: len(parent.hub.addresses) > before)
        yield app
    finally:
        app.parent.leave()
        await asyncio.wait_for(running, 60)


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[LeaderStub]:
    """What calls an edge, over a connection of its own."""
    options = (*channel_options(), ("grpc.use_local_subchannel_pool", 1))
    async with aio.insecure_channel(address, options=options) as channel:
        yield LeaderStub(channel)


Story = Callable[[Parent], Awaitable[None]]


def play(story: Story, settings: Settings = TINY) -> None:
    """A story at a parent that listens."""

    async def whole() -> None:
        async with asyncio.timeout(120), Parent(config_of(settings)).listening() as parent:
            await story(parent)

    asyncio.run(whole())
