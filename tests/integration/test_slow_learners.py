"""Flow control: learners that stop reading hold back neither the others nor the leader's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import grpc
import psutil

from protos import leader_pb2
from tests.integration.harness import TIMEOUT_S, Cluster, Leader, Settings
from utils.wire.rpc import SERVICE, channel_options

MODEL_BYTES = 44_600_000  # ResNet-18: at least so many
STALLED = 8


def model(channel: grpc.Channel) -> Iterator[leader_pb2.ModelChunk]:
    """The chunks of the newest model; what is not asked for is not read."""
    call = channel.unary_stream(
        f"/{SERVICE}/GetModel",
        request_serializer=leader_pb2.Empty.SerializeToString,
        response_deserializer=leader_pb2.ModelChunk.FromString,
    )
    return iter(call(leader_pb2.Empty(), timeout=TIMEOUT_S))


def connection(leader: Leader) -> grpc.Channel:
    """One of its own, so that streams share no window."""
    options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(leader.address, options=options)


def size(chunks: Iterator[leader_pb2.ModelChunk]) -> int:
    return sum(len(chunk.chunk) for chunk in chunks)


def wait_for_model(channel: grpc.Channel) -> None:
    """Fetch the model as soon as the leader has it."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(grpc.RpcError):  # not ready yet
            assert size(model(channel)) > MODEL_BYTES
            return
    raise AssertionError("the leader has no model")


def test_downloads_that_nobody_reads_hold_back_neither_others_nor_memory(cluster: Cluster) -> None:
    settings: Settings = {"model.name": "resnet18", "data.source": "none", "data.holder": "learner"}
    leader = cluster.leader(settings)
    memory = psutil.Process(leader.process.pid).memory_info
    with ExitStack() as stack:
        quick, *stalled = [stack.enter_context(connection(leader)) for _ in range(1 + STALLED)]
        wait_for_model(quick)
        before = memory().rss
        begun = [model(channel) for channel in stalled]
        first = [next(chunks) for chunks in begun]
        for _ in range(3):
            assert size(model(quick)) > MODEL_BYTES
        assert memory().rss - before < STALLED << 22
        # Those that stopped go on where they were.
        assert len(first[0].chunk) + size(begun[0]) > MODEL_BYTES
