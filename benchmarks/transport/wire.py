"""What the transport benchmark's processes agree on: the ways of moving a payload, and their addresses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from grpc import aio

from benchmarks.trust_folder import LOOPBACK, own_channel
from utils.trust.credentials import Credentials
from utils.wire.rpc import channel_options

MIB = 1 << 20
CHUNK = MIB
DOWN, UP = "down", "up"  # from the leader, to the leader
#: A message that holds a whole model, for the ways that send one.
_WHOLE_BYTES = 1 << 30

MEMCPY = "memcpy"
SOCKETS = "plain sockets"
RECEIVED = "plain sockets, nothing added"  # the upload alone
BARE = "bare grpc.aio loop"
CHECKED = "bare loop with CRC-32 and exact sum"  # the upload alone
FLOCKSTEP = "flockstep"
FLOCKSTEP_256 = "flockstep, 256 KiB chunks"
FLOCKSTEP_64 = "flockstep, 64 KiB chunks"
UNARY = "one unary message"
OBJECTS = "protobuf objects"
#: Chunk size of each way that Flockstep's own service is asked to move payloads.
CHUNKS = {FLOCKSTEP: CHUNK, FLOCKSTEP_256: 256 << 10, FLOCKSTEP_64: 64 << 10}


@dataclass(frozen=True)
class Endpoint:
    """Where the leader serves one way."""

    way: str
    tls: bool
    port: int


@dataclass(frozen=True)
class Job:
    """One transfer of a model by one learner."""

    endpoint: Endpoint
    direction: str  # DOWN: from the leader; UP: to it

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> Job:
        """What `line` wrote."""
        said = json.loads(line)
        return cls(Endpoint(**said["endpoint"]), said["direction"])


@dataclass(frozen=True)
class Taken:
    """When a transfer began and ended (CLOCK_MONOTONIC), and the CPU seconds of the process meanwhile."""

    began: float
    ended: float
    cpu_s: float


def open_channel(port: int, own: Credentials | None) -> aio.Channel:
    """A connection of its own to a leader on this machine."""
    return own_channel(f"{LOOPBACK}:{port}", own, channel_options(_WHOLE_BYTES))


def whole_options() -> tuple[tuple[str, int], ...]:
    """Server options under which one message may hold a whole model."""
    return channel_options(_WHOLE_BYTES)
