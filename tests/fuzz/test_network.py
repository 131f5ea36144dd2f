from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import safetensors.numpy
from grpc import aio

from leader.config import LimitsConfig, RunConfig
from leader.rpc.server import serving
from leader.trust.access.connections import STREAMS
from leader.trust.access.guard import Guard
from leader.trust.access.listeners import Ports
from leader.trust.identities.callers import Anybody
from protos import leader_pb2
from tests.fuzz.files import LAYOUT, update_files
from tests.fuzz.leader import InProcessLeader, Reply, Transport, in_process_leader
from tests.fuzz.leader_targets import TARGETS
from tests.fuzz.mutator import Mutator
from tests.fuzz.oracle import ExpectedSum
from tests.fuzz.runner import run_async
from utils.wire.contract import LeaderStub
from utils.wire.rpc import SERVICE, channel_options, raw

WARM_UP, INPUTS = 100, 400  # of each RPC, over the network
ANSWERS: dict[str, Any] = {
    "RegisterLearner": leader_pb2.AckWithMetadata,
    "GetWork": leader_pb2.WorkOrders,
    "GetUpload": leader_pb2.UploadStatus,
    "AccumulateGradients": leader_pb2.Ack,
}
LIMITS = LimitsConfig(
    max_learners=24, chunk_bytes=1024, header_bytes=1 << 16, stall_s=1.0, hello_s=1.0, calls_per_s=1e6
)


class Network:
    """A leader behind a real server; `call` goes over loopback."""

    def __init__(self, leader: InProcessLeader, address: str) -> None:
        self.leader = leader
        self.address = address

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio.Channel]:
        """A connection of its own."""
        options = (*channel_options(), ("grpc.use_local_subchannel_pool", 1))
        async with aio.insecure_channel(self.address, options=options) as channel:
            yield channel

    def through(self, channel: aio.Channel) -> Transport:
        """`InProcessLeader.call` over this channel, with raw bytes both ways."""

        async def call(name: str, messages: Sequence[bytes], peer: str = "") -> Reply:
            path = f"/{SERVICE}/{name}"
            try:
                match name:
                    case "Session":
                        stream = _method(channel.stream_stream, path)(iter(messages), timeout=20)
                        return Reply(grpc.StatusCode.OK, [message async for message in stream])
                    case "GetModel" | "GetData":
                        down = _method(channel.unary_stream, path)(messages[0], timeout=20)
                        return Reply(grpc.StatusCode.OK, [message async for message in down])
                    case "AccumulateGradients":
                        answer = await _method(channel.stream_unary, path)(iter(messages), timeout=20)
                    case _:
                        answer = await _method(channel.unary_unary, path)(messages[0], timeout=20)
                return Reply(grpc.StatusCode.OK, [ANSWERS[name].FromString(answer)])
            except aio.AioRpcError as error:
                # What the client library makes of an answer that comes before all is sent.
                early = (error.details() or "").startswith("Internal error from Core")
                return Reply(
                    grpc.StatusCode.UNAVAILABLE if early else error.code(), details=error.details() or ""
                )

        return call


@asynccontextmanager
async def network(**changes: Any) -> AsyncIterator[Network]:
    async with (
        in_process_leader(listen="127.0.0.1:0", limits=LIMITS, **changes) as leader,
        serving(
            leader.config.limits,
            leader.config.listen,
            {SERVICE: leader.service.handler()},
            _ports(leader.config),
        ) as address,
    ):
        yield Network(leader, address)


def _ports(config: RunConfig) -> Ports:
    return Ports(config, Guard(Anybody(), config.limits, lambda *refused: None))


def _method(kind: Callable[..., Any], path: str) -> Any:
    """A method that takes and gives raw bytes."""
    return kind(path, request_serializer=raw, response_deserializer=raw)


class Footprint:
    """File descriptors, tasks, threads and memory of this process."""

    def __init__(self) -> None:
        gc.collect()
        process = psutil.Process()
        self.files = process.num_fds()
        self.threads = process.num_threads()
        self.bytes = process.memory_info().rss
        self.tasks = len(asyncio.all_tasks())


async def assert_back(before: Footprint, growth_bytes: int = 16 << 20) -> None:
    """Everything that was opened since `before` must be gone within a few seconds."""
    never = asyncio.Event()
    for _ in range(100):
        now = Footprint()
        if now.tasks <= before.tasks and now.files <= before.files + 2:
            break
        with suppress(TimeoutError):  # until the server has seen the connections close
            async with asyncio.timeout(0.1):
                await never.wait()
    assert now.tasks <= before.tasks
    assert now.files <= before.files + 2
    assert now.threads <= before.threads + 4
    assert now.bytes - before.bytes < growth_bytes


async def assert_serves(net: Network) -> None:
    """A normal learner registers, and a normal round that it takes part in ends with the right sum."""
    leader = net.leader
    await leader.keep_residents()
    async with net.channel() as channel:
        info = leader_pb2.LearnerInfo(name="normal", protocol=1, control=leader_pb2.CONTROL_SESSION)
        reply = await LeaderStub(channel).register(info, 10)
        await leader.dismiss(leader.members["three"].token)
        leader.call = net.through(channel)
        file = update_files(Mutator(5), 1)[0].whole
        await leader.finish_round(ExpectedSum(16), file)  # the shards go round when it is over
        assert len(await leader.work(reply.token)) == 1
        base, expected = vector(await leader.model()), ExpectedSum(leader.fraction_bits())
        await leader.finish_round(expected, file)
        assert vector(await leader.model()).tobytes() == (base + expected.mean()).tobytes()
    leader.call = leader.call_in_process
    await leader.keep_residents()


def vector(file: bytes) -> Any:
    arrays = safetensors.numpy.load(file)
    return np.concatenate([arrays[entry.name].ravel() for entry in LAYOUT.entries])


async def mutate(net: Network, count: int, seed: int) -> None:
    """Feed `count` inputs to every RPC over one connection; after each the leader must be as before."""
    async with net.channel() as channel:
        for kind in TARGETS:
            net.leader.call = net.through(channel)
            target = kind(net.leader, seed)
            tally = await run_async(target, count, seed)
            assert any("INVALID_ARGUMENT" in outcome for outcome in tally.outcomes), tally
            net.leader.call = net.leader.call_in_process
            await assert_serves(net)


def test_a_real_server_takes_mutated_messages_of_every_rpc() -> None:
    async def scenario() -> None:
        async with network() as net:
            await assert_serves(net)
            await mutate(net, WARM_UP, seed=2)
            before = Footprint()
            await mutate(net, INPUTS, seed=3)
            await assert_back(before)

    asyncio.run(scenario())


def assert_costs_nothing(
    attack: Callable[[Network, Mutator], Awaitable[None]], seed: int, counts: Sequence[int]
) -> None:
    """Attack so many times, and again: in the end the leader serves, and has what it had after the first ones."""

    async def scenario() -> None:
        mutator = Mutator(seed)
        async with network() as net:
            for count in counts:
                await assert_serves(net)
                before = Footprint()
                for _ in range(count):
                    await attack(net, mutator)
            await assert_serves(net)
            await assert_back(before)

    asyncio.run(scenario())


def test_bytes_that_are_no_http2_and_connections_left_open_cost_nothing() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # and an empty SETTINGS frame

    async def throw(net: Network, mutator: Mutator) -> None:
        host, _, port = net.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        noise = mutator.random.randbytes(mutator.below(600))
        frame = len(noise).to_bytes(3, "big") + bytes(
            (mutator.below(11), mutator.below(64), 0, 0, 0, mutator.below(4))
        )
        data = mutator.pick((b"", preface, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"))
        writer.write(data + (frame if mutator.chance(0.7) else b"") + noise)
        try:
            if mutator.chance(0.3):
                await reader.read(100)
            await writer.drain()
        except ConnectionError:
            pass
        writer.transport.abort() if mutator.chance(0.3) else writer.close()

    async def fifty(net: Network, mutator: Mutator) -> None:
        await asyncio.gather(*(throw(net, mutator) for _ in range(50)))

    assert_costs_nothing(fifty, 4, (5, 20))


def test_thousands_of_opened_and_abandoned_sessions_leave_nothing_behind() -> None:
    async def abandon(net: Network, mutator: Mutator) -> None:
        """As many sessions on one connection as there may be: some say hello, nobody says goodbye."""
        async with net.channel() as channel:
            calls = []
            for _ in range(STREAMS):
                call = _method(channel.stream_stream, f"/{SERVICE}/Session")()
                token = net.leader.members[mutator.pick(("one", "two", "three"))].token
                hello = leader_pb2.LearnerMessage(
                    hello=leader_pb2.Hello(token=token if mutator.chance(0.7) else b"")
                )
                if mutator.chance(0.7):
                    await call.write(hello.SerializeToString())
                calls.append(call)
            for call in calls[: STREAMS // 2]:
                call.cancel()

    assert_costs_nothing(abandon, 5, (10, 30))


def test_learners_that_are_dialled_and_come_back_again_and_again_leave_no_channels() -> None:
    async def register(net: Network, number: int) -> None:
        info = leader_pb2.LearnerInfo(
            name="dialled",
            network_addr=f"127.0.0.1:{1 + number}",
            protocol=1,
            control=leader_pb2.CONTROL_DIALLED,
        )
        info.token = net.leader.members["dialled"].token if number else b""
        reply = await net.leader.call_in_process("RegisterLearner", [info.SerializeToString()])
        assert reply.code is grpc.StatusCode.OK
        net.leader.members["dialled"] = reply.answers[0]

    async def scenario() -> None:
        async with network(dial_learners=True, dial_hosts="127.0.0.1") as net:
            await assert_serves(net)
            before = Footprint()
            for number in range(200):
                await register(net, number)
            await net.leader.dismiss(net.leader.members.pop("dialled").token)
            await assert_back(before)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "address", ["unix:123", "unix-abstract:123", "xds:123", "vsock:123", "ipv4:123", "dns:123"]
)
def test_an_address_is_a_host_and_a_port_whatever_it_looks_like(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        dialled = asyncio.Event()

        def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dialled.set()
            writer.close()

        server = await asyncio.start_server(note, "127.0.0.1", 0)
        good = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        hosts = f"127.0.0.1,{address.partition(':')[0]}"
        async with server, network(dial_learners=True, dial_hosts=hosts) as net:
            for name, target in (("odd", address), ("good", good)):
                info = leader_pb2.LearnerInfo(
                    name=name, network_addr=target, protocol=1, control=leader_pb2.CONTROL_DIALLED
                )
                reply = await net.leader.call("RegisterLearner", [info.SerializeToString()])
                assert reply.code is grpc.StatusCode.OK
            await asyncio.wait_for(dialled.wait(), 20)
            for member in list(net.leader.workforce):
                await member.link.close()

    # What gRPC would take unix:123 and unix-abstract:123 for.
    with socket.socket(socket.AF_UNIX) as file, socket.socket(socket.AF_UNIX) as abstract:
        for listener, path in ((file, "123"), (abstract, "\0" + "123")):
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)
        asyncio.run(scenario())
        for listener in (file, abstract):
            with pytest.raises(BlockingIOError):
                listener.accept()
