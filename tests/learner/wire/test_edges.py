from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import grpc
import pytest
from grpc import aio

from leader.global_model.versions import VersionStore
from learner.wire.connection import Endpoint
from learner.wire.edges import UNREADABLE, Edges, check_via, ranked
from learner.wire.transfer import pull_model, push
from protos import leader_pb2
from tests.learner.wire.test_transfer import LAYOUT, ORDER, VALUES, held
from tests.tools.grpc_server import started
from tests.tools.ports import closed_address
from utils.errors import (
    BusyError,
    ChecksumError,
    DuplicateUpdateError,
    EndedError,
    ForbiddenError,
    IncompatibleError,
    LateUpdateError,
    LimitError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    UnreachableError,
    ValueRangeError,
    WireError,
)
from utils.wire import contract
from utils.wire.contract import Call, Context, LeaderStub, Method
from utils.wire.status import refuse

TIMEOUT_S = 30.0
TICKET, TOKEN = b"the ticket", b"the token"
FOUR = [f"edge-{number}.example.org:50061" for number in range(4)]
EIGHT = [f"10.0.0.{number}:50061" for number in range(8)]
NAMES = [f"learner-{number}" for number in range(1000)]


# --- whose turn it is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [("a", [0, 1, 3, 2]), ("clinic-a", [0, 2, 1, 3]), ("learner-7", [3, 1, 2, 0]), ("", [2, 1, 3, 0])],
)
def test_all_releases_agree_on_whom_a_learner_asks(name: str, order: list[int]) -> None:
    assert ranked(name, FOUR) == [FOUR[place] for place in order]
    assert ranked(name, [*reversed(FOUR), *FOUR]) == ranked(name, FOUR)


def test_learners_spread_evenly_over_edges() -> None:
    number_of = Counter(ranked(name, EIGHT)[0] for name in NAMES)
    assert len(number_of) == 8
    assert all(abs(number - 125) <= 0.16 * 125 for number in number_of.values())


def test_an_edge_that_goes_moves_its_own_learners_alone_and_to_all_others() -> None:
    before = {name: ranked(name, EIGHT) for name in NAMES}
    after = {name: ranked(name, EIGHT[:-1]) for name in NAMES}
    moved = [name for name in NAMES if before[name][0] == EIGHT[-1]]
    assert [name for name in NAMES if after[name][0] != before[name][0]] == moved
    assert all(after[name] == [edge for edge in before[name] if edge != EIGHT[-1]] for name in NAMES)
    number_of = Counter(after[name][0] for name in moved)
    assert len(number_of) == 7
    assert max(number_of.values()) < len(moved) / 4


# --- what a leader may say -------------------------------------------------------------------


@pytest.mark.parametrize(
    "edges", [[], ["a:1"], ["10.0.0.1:65535", "[::1]:50061", "edge_1.clinic-a:7"], FOUR * 16]
)
def test_edges_that_can_be_asked_are_taken(edges: list[str]) -> None:
    check_via(leader_pb2.Via(ticket=bytes(1024), edges=edges))


@pytest.mark.parametrize(
    ("via", "message"),
    [
        (leader_pb2.Via(edges=["a:1"] * 65), "with 65 edges and a ticket of 0 bytes; at most 64 and 1024"),
        (leader_pb2.Via(ticket=bytes(1025)), "with 0 edges and a ticket of 1025 bytes"),
        *(
            (leader_pb2.Via(edges=["a:1", edge]), "which is no HOST:PORT")
            for edge in (
                *("", "a", ":1", "a:", "a:0", "a:65536", "a:1x", "a:-1", "a b:1", "a/b:1", "a@b:1", "a:1\n"),
                *(
                    "unix:/tmp/x",
                    "dns:///a:1",
                    "::1:1",
                    "[a]:1",
                    "a:1,b:2",
                    "\u0661:1",
                    "a:\u0661",
                    "a" * 254 + ":1",
                ),
            )
        ),
    ],
)
def test_edges_that_cannot_be_are_refused(via: leader_pb2.Via, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        check_via(via)


# --- places that do what they are told to ----------------------------------------------------


class Place:
    """An edge or a leader: takes one update after the other and serves the model, unless it is to raise `error`."""

    def __init__(
        self, error: WireError | None = None, model: bytes | None = None, *, dies: bool = False
    ) -> None:
        self.error = error
        self.dying = asyncio.Event()
        self.taken: list[tuple[leader_pb2.UpdateHeader, bytes]] = []
        self.asked: list[leader_pb2.UploadRequest] = []
        self.peers: list[str] = []  # of transfers: equal ones came over one connection
        self._model = model
        self._dies = dies

    def _called(self, context: Context) -> None:
        self.peers.append(context.peer())
        if self.error is not None:
            raise self.error

    async def accumulate(self, messages: AsyncIterator[Any], context: Context) -> leader_pb2.Ack:
        """AccumulateGradients."""
        first = await anext(messages)  # of a small update, with its first chunk
        self._called(context)
        if self._dies:
            self.dying.set()
            await asyncio.Event().wait()
        rest = [bytes(message) async for message in messages]
        self.taken.append((first.header, b"".join((first.chunk, *rest))))
        return leader_pb2.Ack(success=True)

    async def get_upload(
        self, request: leader_pb2.UploadRequest, context: Context
    ) -> leader_pb2.UploadStatus:
        """GetUpload: nothing of it is here."""
        if self.error is not None:
            raise self.error
        self.asked.append(request)
        return leader_pb2.UploadStatus()

    async def get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        """GetModel."""
        self._called(context)
        self.taken.append((leader_pb2.UpdateHeader(token=request.token, ticket=request.ticket), b""))
        for message in [self._model] if self._model else VersionStore(LAYOUT, 512).encode(9, VALUES).messages:
            await context.write(message)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """The address at which it is there."""
        calls: dict[Method[Any, Any], Call] = {
            contract.ACCUMULATE: self.accumulate,
            contract.GET_UPLOAD: self.get_upload,
            contract.GET_MODEL: self.get_model,
        }
        server = aio.server()
        server.add_generic_rpc_handlers((contract.serve(calls, lambda _, call, why: refuse(call, why)),))
        async with started(server) as address:
            death = asyncio.ensure_future(self._die(server))
            try:
                yield address
            finally:
                death.cancel()

    async def _die(self, server: aio.Server) -> None:
        await self.dying.wait()
        await server.stop(None)


@asynccontextmanager
async def without_methods() -> AsyncIterator[str]:
    """The address of another program that speaks gRPC."""
    async with started(aio.server()) as address:
        yield address


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """The address of what takes connections and says nothing."""
    gone = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        gone.set()
        server.close()


@asynccontextmanager
async def absent() -> AsyncIterator[str]:
    """An address at which nothing is."""
    yield closed_address()


class Learner:
    """Sends updates through edges at these addresses, of which it asks the first one first."""

    def __init__(self, leader: aio.Channel) -> None:
        self.now = 0.0
        self.open_edges(TIMEOUT_S)
        self.dialled: list[str] = []
        self._leader = Endpoint(LeaderStub(leader), TOKEN)

    def open_edges(self, connect_s: float) -> None:
        """Know nothing of any edge."""
        self.edges = Edges(self._dial, connect_s=connect_s, clock=lambda: self.now)
        self.edges.registered("a")

    def _dial(self, address: str) -> aio.Channel:
        self.dialled.append(address)
        return aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )  # as a learner does

    async def send(self, *addresses: str) -> None:
        """Send an update; see Edges for what is raised."""
        tries = count()

        async def call(to: Endpoint) -> None:
            await push(to, held(), 256, resume=next(tries) > 0)

        await self._ask(call, addresses)

    async def pull(self, *addresses: str) -> bytes:
        """The model, as bytes."""

        async def call(at: Endpoint) -> bytes:
            return (await pull_model(at, ORDER, LAYOUT)).vector.tobytes()

        model: bytes = await self._ask(call, addresses, UNREADABLE)
        return model

    async def _ask(
        self, call: Callable[[Endpoint], Awaitable[Any]], addresses: tuple[str, ...], *more: Any
    ) -> Any:
        via = leader_pb2.Via(ticket=TICKET, edges=addresses)
        return await self.edges.ask(via, lambda: self._leader, call, *more)


def play(scenario: Callable[[Learner, Place, list[str]], Awaitable[None]], *edges: Any) -> None:
    """Run `scenario` with a learner, its leader and the addresses of edges, which it asks in this order."""

    async def run() -> None:
        leader = Place()
        async with asyncio.timeout(TIMEOUT_S), AsyncExitStack() as stack:
            there = await stack.enter_async_context(leader.serving())
            channel = await stack.enter_async_context(aio.insecure_channel(there))
            addresses = [await stack.enter_async_context(edge) for edge in edges]
            learner = Learner(channel)
            stack.push_async_callback(learner.edges.close)
            await scenario(learner, leader, addresses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learner.wire.edges.ranked", lambda name, addresses: list(addresses))
        asyncio.run(run())


def whole(*, ticket: bytes = b"", token: bytes = b"") -> tuple[leader_pb2.UpdateHeader, bytes]:
    """The update as it arrives."""
    file, header = held().file, leader_pb2.UpdateHeader(ticket=ticket, token=token)
    header.MergeFrom(held().said)
    return header, bytes(file.header) + bytes(file.body.data)


# --- whom an update goes to ------------------------------------------------------------------


def test_without_edges_there_is_the_leader_alone() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        await learner.send()
        assert await learner.pull() == VALUES.tobytes()
        assert [header.token for header, _ in leader.taken] == [TOKEN, TOKEN]
        assert leader.taken[0] == whole(token=TOKEN)
        assert learner.dialled == []

    play(scenario)


def test_the_first_edge_takes_it_by_the_ticket() -> None:
    first, second = Place(), Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        await learner.send(*addresses)
        assert await learner.pull(*addresses) == VALUES.tobytes()
        assert first.taken[0] == whole(ticket=TICKET)
        assert [(header.ticket, header.token) for header, _ in first.taken] == [(TICKET, b"")] * 2
        assert second.taken == leader.taken == []
        assert learner.dialled == addresses[:1]

    play(scenario, first.serving(), second.serving())


FAILING: dict[str, Callable[[], Any]] = {
    "refuses the connection": absent,
    "is another program": without_methods,
    "not ready": lambda: Place(NotReadyError("no leader yet")).serving(),
    "stalled": lambda: Place(StalledError("no bytes")).serving(),
    "busy": lambda: Place(BusyError("too many")).serving(),
    "forbidden": lambda: Place(ForbiddenError("not given out")).serving(),
    "ticket ended": lambda: Place(EndedError("has ended")).serving(),
    "unknown": lambda: Place(UnknownLearnerError("who?")).serving(),
    "dies in the middle": lambda: Place(dies=True).serving(),
}


@pytest.mark.parametrize("failing", FAILING)
def test_an_edge_that_fails_is_passed_over_and_left_alone(failing: str) -> None:
    second = Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        await learner.send(*addresses)
        assert second.taken == [whole(ticket=TICKET)]  # from its beginning
        learner.now = 1.9
        await learner.send(*addresses)
        assert len(second.taken) == 2
        assert learner.dialled == addresses
        learner.now = 2.0
        await learner.send(*addresses)
        assert learner.dialled == [*addresses, addresses[0]]
        assert len(second.taken) == 3
        assert leader.taken == []

    play(scenario, FAILING[failing](), second.serving())


def test_an_edge_that_takes_the_connection_and_says_nothing_is_not_waited_for() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        learner.open_edges(0.2)
        for learner.now in (0.0, 1.0):
            await learner.send(*addresses)
        assert leader.taken == [whole(token=TOKEN)] * 2
        assert learner.dialled == addresses

    play(scenario, mute())


def test_an_edge_is_left_alone_for_longer_each_time_until_it_works() -> None:
    first = Place(NotReadyError("no leader yet"))

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        for number, wait_s in enumerate((2, 4, 8, 16, 32, 60, 60), 1):
            await learner.send(*addresses)
            learner.now += wait_s - 0.1
            await learner.send(*addresses)
            assert len(first.peers) == number
            learner.now += 0.1
        first.error = None
        await learner.send(*addresses)
        first.error = NotReadyError("no leader any more")
        await learner.send(*addresses)
        learner.now += 2.0
        await learner.send(*addresses)
        assert len(first.peers) == 10
        assert len(first.taken) == 1
        assert len(leader.taken) == 16

    play(scenario, first.serving())


VERDICTS = (
    LateUpdateError("the round has closed"),
    DuplicateUpdateError("counted before"),
    PayloadError("no such tensor"),
    ValueRangeError("a value is NaN"),
    LimitError("too large"),
    ChecksumError("damaged"),
    IncompatibleError("another model"),
    BusyError("try again in 3 s", 3.0),
)


@pytest.mark.parametrize("error", VERDICTS, ids=lambda error: type(error).__name__)
def test_what_an_update_is_refused_for_holds_everywhere(error: WireError) -> None:
    first, second = Place(error), Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        for _ in range(2):
            with pytest.raises(type(error), match=f"^{error}$") as caught:
                await learner.send(*addresses)
            if isinstance(caught.value, BusyError):
                assert caught.value.retry_after_s == 3.0
        assert second.taken == leader.taken == []
        assert len(first.peers) == 2

    play(scenario, first.serving(), second.serving())


def test_the_leader_has_the_last_word() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        await learner.send(*addresses)
        assert leader.taken == [whole(token=TOKEN)]
        leader.error = UnknownLearnerError("register again")
        with pytest.raises(UnknownLearnerError, match="register again"):
            await learner.send(*addresses)
        assert len(leader.peers) == 2

    play(scenario, absent(), Place(NotReadyError("no leader yet")).serving())


def test_a_leader_that_is_gone_by_then_is_unreachable() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        def gone() -> Endpoint:
            raise UnreachableError("the leader is not connected")

        async def call(to: Endpoint) -> None:
            await push(to, held(), 256)

        via = leader_pb2.Via(ticket=TICKET, edges=addresses)
        with pytest.raises(UnreachableError, match="the leader is not connected"):
            await learner.edges.ask(via, gone, call)

    play(scenario, absent())


def test_another_place_is_asked_what_it_has_of_an_update_that_broke_off() -> None:
    second = Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        await learner.send(*addresses)
        said = held().said
        assert second.asked == [
            leader_pb2.UploadRequest(
                ticket=TICKET, work_id=said.work_id, total_bytes=said.total_bytes, crc32=said.crc32
            )
        ]

    play(scenario, Place(dies=True).serving(), second.serving())


@pytest.mark.parametrize("model", [b"\n\x08" + b"\xff" * 8, b"\n\x03abc"], ids=["too large", "too short"])
def test_a_model_that_cannot_be_read_comes_from_elsewhere(model: bytes) -> None:
    first, second = Place(model=model), Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        assert await learner.pull(*addresses) == VALUES.tobytes()
        assert len(first.peers) == len(second.peers) == 1
        assert leader.peers == []

    play(scenario, first.serving(), second.serving())


def test_a_model_that_is_too_old_is_so_everywhere() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        with pytest.raises(LateUpdateError, match="version 9 is gone"):
            await learner.pull(*addresses)
        assert leader.peers == []

    play(scenario, Place(LateUpdateError("version 9 is gone")).serving())


def test_an_edge_that_must_not_be_dialled_is_passed_over() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        def never(address: str) -> aio.Channel:
            raise ForbiddenError(f"{address} is another machine")

        learner.edges = Edges(never)
        await learner.send("10.0.0.1:1", "10.0.0.2:1")
        assert leader.taken == [whole(token=TOKEN)]

    play(scenario)


# --- how long a connection lasts -------------------------------------------------------------


def test_a_connection_lasts_as_long_as_orders_name_its_edge() -> None:
    first = Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        for learner.now in (0.0, 600.0, 1200.0):
            await learner.send(*addresses)
        assert len(set(first.peers)) == 1
        learner.now = 1800.0
        await learner.send()
        await learner.send(*addresses)
        assert len(set(first.peers)) == 1
        learner.now = 2400.5
        await learner.send()
        await learner.send(*addresses)
        assert len(set(first.peers)) == len(learner.dialled) == 2

    play(scenario, first.serving())


def test_each_registration_shows_what_is_new_of_the_learner() -> None:
    first = Place()

    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        for _ in range(2):
            await learner.send(*addresses)
            await learner.send(*addresses)
            learner.edges.registered("a")
        assert len(first.peers) == 4
        assert len(set(first.peers)) == len(learner.dialled) == 2

    play(scenario, first.serving())


def test_at_the_end_no_connection_is_left() -> None:
    async def scenario(learner: Learner, leader: Place, addresses: list[str]) -> None:
        opened: list[aio.Channel] = []

        def dial(address: str) -> aio.Channel:
            opened.append(aio.insecure_channel(address))
            return opened[-1]

        learner.edges = Edges(dial)
        await learner.send(*addresses)
        await learner.edges.close()
        assert [channel.get_state() for channel in opened] == [grpc.ChannelConnectivity.SHUTDOWN]

    play(scenario, Place().serving())
