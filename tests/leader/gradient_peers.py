"""A coordinator with a run of gradient steps, and learners whose streams a test plays piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from leader.config import RunConfig
from leader.data.dataset import Data
from leader.global_model.initial import Origin
from leader.learners.links import SessionLink
from leader.learners.membership import Member
from leader.optimizers.choose import make_optimizer
from leader.rpc.gradient_streams import GradientStreams
from leader.state import RunState
from leader.training.inbox import Upload
from leader.trust.identities.callers import anonymous
from leader.wiring import Wiring
from model.layout import Layout
from protos import leader_pb2
from utils.codecs.files import File
from utils.datasets import Dataset
from utils.vector import Vector
from utils.wire.framing import frames
from utils.wire.payload import Payload, encode_header, parse_header
from utils.wire.rpc import UploadMessage, parse_down, parse_upload

LAYOUT = Layout.of(nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 128), nn.BatchNorm1d(128)))
TIMEOUT_S = 60.0
EXAMPLES = 12  # of each learner with data of its own


def numbers(seed: int) -> Vector:
    """Values of a made-up model or gradient, (total,)."""
    return np.random.Generator(np.random.PCG64(seed)).normal(size=LAYOUT.total).astype(np.float32)


def _images() -> Dataset:
    """What a leader hands out of data that nobody looks at."""
    return Dataset("noise", np.zeros((24, 3, 1, 1), np.uint8), np.zeros(24, np.int64), ("all",))


class GradientRun:
    """The coordinator of a run with two steps a round, and its streams."""

    def __init__(self, **changes: Any) -> None:
        base: dict[str, Any] = {
            "exchange": "gradient",
            "rounds": 1,
            "train": {"local_steps": 2, "batch_size": 4, "lr": 0.1, "schedule": "constant"},
            "codec": {"piece_bytes": 64 << 10},
            "evaluation": {"every": 0},
            "data": {"source": "none", "holder": "learner"},
        }
        self.config = config = RunConfig(**{**base, **changes})
        held = None if config.data.holder == "learner" else _images()
        state = RunState("run", 0, 0, 1, numbers(0), make_optimizer(config).init(LAYOUT.parameter_count))
        origin = Origin(LAYOUT, state.vector, None, None, own=False)
        wiring = Wiring(config, origin, state, Data("noise", held, None, 1))
        self.events, self.workforce = wiring.events, wiring.workforce
        self.coordinator = wiring.coordinator
        pieces = self.coordinator.streams
        assert pieces is not None
        self.files = pieces.files
        self.streams = GradientStreams(self.coordinator, pieces, wiring.uploads(), config.limits)

    def join(self, name: str) -> Peer:
        """A learner that has registered."""
        own = leader_pb2.OwnData(examples=EXAMPLES, classes=1, fingerprint=name)
        info = leader_pb2.LearnerInfo(
            name=name,
            protocol=1,
            control=leader_pb2.CONTROL_SESSION,
            own_data=own if self.config.data.holder == "learner" else None,
        )
        return Peer(self, self.workforce.register(info, anonymous(f"peer of {name}")))


class Peer:
    """One learner and its stream."""

    def __init__(self, run: GradientRun, member: Member) -> None:
        self.run = run
        self.member = member
        self._link = SessionLink()
        run.workforce.attach(member, self._link)
        self._up: asyncio.Queue[UploadMessage | None] = asyncio.Queue()
        self._down: asyncio.Queue[leader_pb2.ModelChunk] = asyncio.Queue()
        self._arriving = bytearray()
        self.weights: dict[int, Vector] = {}  # slices that have come whole, by number
        self._piece: leader_pb2.Piece | None = None
        self.serving: asyncio.Task[None] | None = None

    @property
    def model(self) -> Vector:
        """The slices that have come, as one."""
        return np.concatenate([self.weights[number] for number in sorted(self.weights)])

    def open(self) -> None:
        """Open a stream."""
        self._up, self._down = asyncio.Queue(), asyncio.Queue()

        async def messages() -> AsyncIterator[UploadMessage]:
            while (message := await self._up.get()) is not None:
                yield message

        member_of = partial(self.run.workforce.by_token, caller=anonymous("any"))
        serve = self.run.streams.serve(self.member.identity, member_of, messages(), self._take, ranked=True)
        self.serving = asyncio.ensure_future(serve)

    async def _take(self, message: bytes) -> None:
        parsed = parse_down(message)
        if isinstance(parsed, memoryview):
            assert self._piece is not None
            self._arriving += parsed
            if len(self._arriving) < self._piece.total_bytes:
                return
            file, number = bytes(self._arriving), self._piece.number
            header = parse_header(file[: 8 + int.from_bytes(file[:8], "little")])
            self.weights[number] = np.frombuffer(file[header.header_bytes :], np.float32)
            self._arriving.clear()
            self._down.put_nowait(leader_pb2.ModelChunk(piece=self._piece))
        elif parsed.HasField("piece"):
            self._piece = parsed.piece
        else:
            self._down.put_nowait(parsed)

    async def told(self, kind: str) -> leader_pb2.LeaderMessage:
        """The next message of this kind on its session: work, committed or stop."""
        while True:
            message = await asyncio.wait_for(self._link.next(), TIMEOUT_S)
            assert message is not None
            if message.WhichOneof("kind") == kind:
                return message

    async def asked(self, round_: int, step: int, work_id: str = "") -> None:
        """Wait until it is given work of this exchange, or just that."""
        while True:
            work = (await self.told("work")).work
            if (work.round, work.step) == (round_, step) and work_id in ("", work.work_id):
                return

    def orders(self) -> list[leader_pb2.WorkOrder]:
        """Its open work."""
        return self.run.coordinator.desk.work_of(self.member)

    def header(self, order: leader_pb2.WorkOrder, examples: int = 4, loss: float = 0.5) -> None:
        """Announce an update."""
        said = leader_pb2.UpdateHeader(
            token=self.member.token, work_id=order.work_id, examples=examples, loss=loss
        )
        self.say(leader_pb2.GradientData(header=said))

    def say(self, message: leader_pb2.GradientData) -> None:
        """Send any message."""
        self._up.put_nowait(parse_upload(message.SerializeToString()))

    def piece(self, number: int, gradient: Vector, /, attempt: int = 0, **wrong: int) -> None:
        """Send one piece of a gradient, (total,)."""
        place = self.run.files.pieces[number]
        file = self.run.files.plain(number, gradient[place.start : place.stop], {})
        said = {"number": number, "total_bytes": file.total_bytes, "crc32": file.crc32, "attempt": attempt}
        self.say(leader_pb2.GradientData(piece=leader_pb2.Piece(**{**said, **wrong})))
        for message in frames(file.header, file.body.data, 20_000):
            self._up.put_nowait(parse_upload(message))

    def pieces(self, gradient: Vector, numbers: Iterable[int] | None = None, attempt: int = 0) -> None:
        """Send pieces of a gradient, all of them unless told otherwise, last first."""
        every = range(len(self.run.files.pieces) - 1, -1, -1)
        for number in every if numbers is None else numbers:
            self.piece(number, gradient, attempt)

    def hang_up(self) -> None:
        """Close the way up."""
        self._up.put_nowait(None)

    async def next(self) -> leader_pb2.ModelChunk:
        """What comes down next; slices in one message, once they are whole."""
        return await asyncio.wait_for(self._down.get(), TIMEOUT_S)

    async def until(self, kind: str) -> leader_pb2.ModelChunk:
        """The next message of this kind: piece, stepped or redo."""
        while True:
            message = await self.next()
            if message.HasField(kind):
                return message

    async def whole(self, order: leader_pb2.WorkOrder, gradient: Vector, examples: int = 4) -> None:
        """Send an update whole, as AccumulateGradients does."""
        header = encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries)
        file = File(header, gradient.view(np.uint8))
        payload = Payload(parse_header(file.header), file.body, file.crc32)
        said = leader_pb2.UpdateHeader(
            token=self.member.token, work_id=order.work_id, examples=examples, loss=0.5
        )
        upload = Upload(said, payload, file.total_bytes)
        await asyncio.wait_for(
            self.run.coordinator.desk.submit(self.member, upload, order.work_id), TIMEOUT_S
        )

    def leave(self) -> None:
        """Say goodbye."""
        self.run.workforce.leave(self.member, "goodbye")


@asynccontextmanager
async def gradient_run(names: str, **changes: Any) -> AsyncIterator[tuple[GradientRun, list[Peer]]]:
    """A run whose learners are there and whose first exchange is open."""
    run = GradientRun(learners=len(names), **changes)
    peers = [run.join(name) for name in names]
    running = asyncio.ensure_future(run.coordinator.run())
    try:
        for peer in peers:
            await peer.asked(1, 0)
            peer.open()
        yield run, peers
    finally:
        run.coordinator.stop("the test is over")
        await asyncio.wait_for(running, TIMEOUT_S)
        for peer in peers:
            if peer.serving is not None:
                peer.serving.cancel()
                await asyncio.gather(peer.serving, return_exceptions=True)
