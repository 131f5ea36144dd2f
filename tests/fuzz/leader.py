"""A whole leader in this process, without a network: service, coordinator, workforce and uploads of a tiny run."""

from __future__ import annotations

import asyncio
import io
import logging
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import grpc
import numpy as np
from rich.console import Console

from leader.aggregation.base import Contribution
from leader.aggregation.exact_sum import Scale
from leader.condition import Signal
from leader.config import CohortConfig, DataConfig, LimitsConfig, RunConfig, TrainConfig
from leader.data.dataset import Data
from leader.events import Event, RunStarted
from leader.global_model.initial import Origin
from leader.optimizers.choose import make_optimizer
from leader.reporting.messages import describe
from leader.reporting.terminal import TerminalDisplay
from leader.rounds.protocol import RoundEvent
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, ExchangeKind, OpenExchange
from leader.training.exchanges.kinds import choose_kind
from leader.training.inbox import Submission
from leader.wiring import Wiring
from protos import leader_pb2
from tests.fuzz.channel import Context, RefusedError, find_method, stream
from tests.fuzz.files import LAYOUT, model_file
from tests.fuzz.oracle import ExpectedSum
from utils.datasets.dataset import Dataset
from utils.wire.framing import frame
from utils.wire.rpc import SERVICE, parse_chunk

EXAMPLES = 64
CLASSES = 3
PEER = "ipv4:10.0.0.2:7"  # of learners that say who they are
PLAIN_PEER = "ipv4:10.0.0.1:5"  # of the one that doesn't
_LONGEST_WAIT_S = 30.0
RESIDENTS = ("anchor", "one", "two", "three")


def make_config(**changes: Any) -> RunConfig:
    """A run of very many rounds with small limits; `changes` are other keys of the config."""
    fields: dict[str, Any] = {
        "rounds": 10_000_000,
        "learners": len(RESIDENTS) + 1,
        "dial_learners": False,
        "data": DataConfig(source="synthetic"),
        "train": TrainConfig(batch_size=8, schedule="constant"),
        # Waits are short, so that an input which must wait does not hold up the others for long.
        "limits": LimitsConfig(
            max_learners=24,
            chunk_bytes=1024,
            upload_bytes=1 << 20,
            window_bytes=64 << 10,  # of which many may wait within so few bytes
            header_bytes=1 << 16,
            stall_s=0.6,  # longer than a busy machine pauses
            hello_s=0.2,
        ),
        # A round closes when all is in, or when nobody is left who could do the rest.
        "cohort": CohortConfig(lease_s=3600.0, quorum=0.01),
    }
    return RunConfig(**(fields | changes))


@dataclass(frozen=True)
class Reply:
    """How one call ended."""

    code: grpc.StatusCode
    answers: Sequence[Any] = ()
    details: str = ""

    @property
    def outcome(self) -> str:
        """The status by name."""
        return self.code.name


class Transport(Protocol):
    """One call with raw messages, to its end."""

    def __call__(self, name: str, messages: Sequence[bytes], peer: str = PEER) -> Awaitable[Reply]:
        """The answer or the status; anything else is raised."""
        ...


class Watched:
    """A kind of exchange that tells what it adds to the sum, in that order."""

    def __init__(self) -> None:
        self.on_added: Callable[[Submission, Contribution, RoundEvent | None], None] = lambda *_: None

    def kind(self, engine: Engine) -> ExchangeKind:
        """The kind that the engine's config asks for, watched."""
        kind = choose_kind(engine)
        return replace(kind, open=lambda state: self._watched(kind.open(state)))

    def _watched(self, exchange: OpenExchange) -> OpenExchange:
        return cast(OpenExchange, _WatchedExchange(exchange, self))


class _WatchedExchange:
    """An open exchange that tells of each update that it has taken."""

    def __init__(self, exchange: OpenExchange, watched: Watched) -> None:
        self._exchange = exchange
        self._watched = watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        event = await self._exchange.add(admitted, submission, counted)
        self._watched.on_added(submission, admitted.contribution, event)
        return event


class InProcessLeader:
    """The leader and its resident learners; `call` feeds it raw messages."""

    run: asyncio.Task[str]

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (EXAMPLES, 3, 4, 4), np.uint8)
        data = Dataset("noise", images, random.integers(0, CLASSES, EXAMPLES), tuple("abc"))
        vector = np.frombuffer(model_file(0)[-4 * LAYOUT.total :], np.float32)
        optimizer = make_optimizer(config).init(LAYOUT.parameter_count)
        self.watched = Watched()
        wiring = Wiring(
            config,
            Origin(LAYOUT, vector, None, None, own=False),
            RunState("fuzz-run", 0, 0, 1, vector, optimizer),
            Data("noise", data, None, CLASSES),
            kind=self.watched.kind,
        )
        self.coordinator, self.workforce = wiring.coordinator, wiring.workforce
        self.service = wiring.service()
        self.trouble: Exception | None = None  # of what shows the run
        self._console = Console(file=io.StringIO(), width=100)
        self._display = TerminalDisplay(config.rounds, self._console)
        wiring.events.subscribe(self._show)
        exchange, rounds = config.exchange, config.rounds
        wiring.events.publish(
            RunStarted("fuzz-run", Path("runs"), "noise", "tiny", 17, exchange, rounds, "127.0.0.1:1", 5)
        )
        self.handlers = {name: find_method(self.service.handler(), f"/{SERVICE}/{name}") for name in METHODS}
        self.members: dict[str, leader_pb2.AckWithMetadata] = {}
        self.call: Transport = self.call_in_process

    def _show(self, event: Event) -> None:
        """What shows a run must cope with whatever comes from outside."""
        try:
            self._display.on_event(event)
            describe(event, self.config.rounds)
        except Exception as error:  # the stream of events would only log it
            self.trouble = error
            raise

    async def call_in_process(self, name: str, messages: Sequence[bytes], peer: str = PEER) -> Reply:
        """One call with raw messages, to its end; anything but an answer or a status is raised."""
        handler, context = self.handlers[name], Context(peer)
        parse = handler.request_deserializer
        try:
            if name == "AccumulateGradients":
                return Reply(
                    grpc.StatusCode.OK, [await handler.stream_unary(stream(messages, parse), context)]
                )
            if name in ("Session", "ExchangeGradients"):
                await handler.stream_stream(stream(messages, parse), context)
                return Reply(grpc.StatusCode.OK, context.written)
            request = parse(messages[0])
            if handler.unary_stream:
                await handler.unary_stream(request, context)
                return Reply(grpc.StatusCode.OK, context.written)
            return Reply(grpc.StatusCode.OK, [await handler.unary_unary(request, context)])
        except RefusedError as error:
            return Reply(error.code, details=str(error))

    async def register(self, name: str) -> leader_pb2.AckWithMetadata:
        """Register a learner, a plain one under the name "plain"; its reply is kept in `members`."""
        info, peer = resident_info(name), PLAIN_PEER if name == "plain" else PEER
        if name in self.members and name != "plain":
            info.token = self.members[name].token
        reply = await self.call("RegisterLearner", [info.SerializeToString()], peer)
        assert reply.code is grpc.StatusCode.OK, reply
        self.members[name] = reply.answers[0]
        return self.members[name]

    def is_member(self, name: str) -> bool:
        """Whether the token of this resident still counts."""
        return any(member.token == self.members[name].token for member in self.workforce)

    async def return_all(self) -> None:
        """Register the residents that inputs have sent away, or whose place they took."""
        for name, known in self.members.items():
            if not self.is_member(name):
                for member in list(self.workforce):
                    if member.name == known.name:
                        await self.dismiss(member.token)
                await self.register(name)

    async def keep_residents(self) -> None:
        """Send everybody else away."""
        await self.return_all()
        kept = {reply.token for reply in self.members.values()}
        for member in list(self.workforce):
            if member.token not in kept:
                await self.dismiss(member.token)
        assert len(self.workforce) == len(self.members)

    async def dismiss(self, token: bytes) -> None:
        """Let a learner say goodbye."""
        hello = leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=token))
        goodbye = leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason="\x1b[2J" * 300))
        reply = await self.call("Session", [message.SerializeToString() for message in (hello, goodbye)])
        assert reply.code is grpc.StatusCode.OK, reply

    async def work(self, token: bytes) -> list[leader_pb2.WorkOrder]:
        """The open work orders of a member."""
        request = leader_pb2.WorkRequest(token=token).SerializeToString()
        reply = await self.call("GetWork", [request])
        assert reply.code is grpc.StatusCode.OK, reply
        return list(reply.answers[0].orders)

    async def model(self) -> bytes:
        """The newest model, a safetensors file."""
        reply = await self.call("GetModel", [b""], "ipv4:10.9.9.9:1")
        assert reply.code is grpc.StatusCode.OK, reply
        return b"".join(parse_chunk(message) for message in reply.answers)

    async def finish_round(self, expected: ExpectedSum, file: bytes) -> None:
        """Send `file` for all work that is open, and wait until the round is committed."""
        versions = self.coordinator.versions
        version, round_ = versions.number, self.coordinator.state.round + 1
        deadline = time.monotonic() + _LONGEST_WAIT_S
        while versions.number == version:
            assert time.monotonic() < deadline, "no round came about"
            await self._send_all(round_, expected, file)
            # Work whose learner has just left is given to others meanwhile.
            await self._wait(versions.changed, lambda: versions.number != version, 0.05)
        await self.next_round()

    async def _send_all(self, round_: int, expected: ExpectedSum, file: bytes) -> None:
        for member in list(self.workforce):
            for order in await self.work(member.token):
                if order.round != round_:  # the round has closed meanwhile
                    return
                sent = upload_messages(member.token, order.work_id, 1, file)
                reply = await self.call("AccumulateGradients", sent)
                assert reply.code is grpc.StatusCode.OK, reply
                expected.add(file, 1)

    async def next_round(self) -> None:
        """Wait until work is open: for the residents, unless somebody else has got the place of one meanwhile."""

        def is_open() -> bool:
            return any(self.coordinator.desk.work_of(member) for member in self.workforce)

        assert await self._wait(self.coordinator.desk.opened, is_open, _LONGEST_WAIT_S), "no round was opened"

    async def _wait(self, signal: Signal, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition; raises what the run ended with if it ended instead."""
        waiting = asyncio.ensure_future(signal.wait_until(condition, timeout_s))
        await asyncio.wait((waiting, self.run), return_when=asyncio.FIRST_COMPLETED)
        if self.run.done():
            waiting.cancel()
            raise AssertionError("the run ended") from self.run.exception()
        return waiting.result()

    def fraction_bits(self) -> int:
        """Of the sums of the open round."""
        weight = sum(part.examples for part in self.workforce.parts().values())
        return Scale.of(self.config.aggregate.max_abs, weight).fraction_bits

    def render(self) -> None:
        """Draw the display, which must not fail over what it was told."""
        if self.trouble is not None:
            raise self.trouble
        with self._console.capture():
            self._console.print(self._display.render())

    def close(self) -> None:
        """Take the display away."""
        self._display.close()


METHODS = (
    "RegisterLearner", "GetModel", "GetData", "AccumulateGradients", "Session", "GetWork", "GetUpload",
    "ExchangeGradients",
)  # fmt: skip


def resident_info(name: str) -> leader_pb2.LearnerInfo:
    """What a resident registers with."""
    if name == "plain":
        return leader_pb2.LearnerInfo(network_addr="plain.example:1")
    return leader_pb2.LearnerInfo(name=name, protocol=1, control=leader_pb2.CONTROL_SESSION, device="cpu")


def upload_messages(token: bytes, work_id: str, examples: int, file: bytes) -> list[bytes]:
    """A sound AccumulateGradients stream."""
    header = leader_pb2.UpdateHeader(
        token=token,
        work_id=work_id,
        examples=examples,
        total_bytes=len(file),
        crc32=zlib.crc32(file),
        loss=1.0,
    )
    return [leader_pb2.GradientData(header=header).SerializeToString(), frame(file)]


@asynccontextmanager
async def in_process_leader(**changes: Any) -> AsyncIterator[InProcessLeader]:
    """A leader whose residents are registered and whose first round is open; it must end without a trace."""
    level = logging.root.manager.disable
    logging.disable()  # a line for every second input
    leader = InProcessLeader(make_config(**changes))
    before = asyncio.all_tasks()
    leader.run = asyncio.ensure_future(leader.coordinator.run())
    try:
        for name in (*RESIDENTS, "plain"):
            await leader.register(name)
        await leader.next_round()
        yield leader
        leader.render()
    finally:
        leader.coordinator.stop("the fuzzing is done")
        await asyncio.wait_for(leader.run, _LONGEST_WAIT_S)
        leader.close()
        logging.disable(level)
    assert asyncio.all_tasks() == before, asyncio.all_tasks() - before
