"""Channel and server options, and the messages framed by hand, that leader and learner agree on."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

from google.protobuf.message import DecodeError

from protos import leader_pb2
from utils.errors import LimitError, PayloadError
from utils.wire.framing import beside_chunk, unframe

SERVICE = "leader.LeaderService"
MAX_MESSAGE_BYTES = 8 << 20  # one message; streams are cut far below this
#: Of a message that becomes objects, which take up to thirty times its bytes; what is more is refused unread.
MAX_SAID_BYTES = 64 << 10
#: Of a model that goes with a work order, and of an update that goes with its header.
INLINE_BYTES = 48 << 10
_TARGET = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
WINDOW_BYTES = 2 << 20  # of a stream that its receiver has not read


def channel_options(
    message_bytes: int = MAX_MESSAGE_BYTES, window_bytes: int = WINDOW_BYTES
) -> tuple[tuple[str, int], ...]:
    """gRPC options of a channel; keepalive holds an idle session open through NAT tables.

    Many of those forget a connection after 60 s or less without a packet.
    """
    return (
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.keepalive_time_ms", 20_000),
        # An answer waits behind what is under way, which may be a window of a slow link. Which of the two counts
        # depends on gRPC's release.
        ("grpc.keepalive_timeout_ms", 60_000),
        ("grpc.http2.ping_timeout_ms", 60_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Left to itself gRPC lets in as much of a stream that is not read as its estimate of bandwidth times
        # delay allows. On a busy machine that is a whole update for each learner that waits; and on a slow
        # link so much of it queues up that what permits the other direction to go on comes seconds late.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", window_bytes),
    )


def server_options(
    message_bytes: int = MAX_MESSAGE_BYTES,
    metadata_bytes: int = 16 << 10,
    window_bytes: int = WINDOW_BYTES,
) -> tuple[tuple[str, int], ...]:
    """gRPC options of a server: those of a channel, and bounds on what a peer may do."""
    return (
        *channel_options(message_bytes, window_bytes),
        ("grpc.max_metadata_size", metadata_bytes),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # A second program on the same port must fail with "port taken", not share it.
        ("grpc.so_reuseport", 0),
    )


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def is_any(host: str) -> bool:
    """Whether `host` means every address of this machine, which nobody can dial."""
    try:
        return ip_address(host.strip("[]")).is_unspecified
    except ValueError:  # a name
        return False


def is_target(address: str) -> bool:
    """Whether a text is HOST:PORT, of one machine, that can be dialled."""
    port = address.rpartition(":")[2]
    return bool(_TARGET.fullmatch(address)) and 0 < int(port) < 65536


def own_host() -> str:
    """This machine as others reach it: the address that it calls them from, else its name.

    Not the name first: many machines know theirs as 127.0.0.1, and no other machine knows it at all.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of no machine (RFC 5737); nothing is sent
        except OSError:  # no route to anywhere
            return socket.gethostname()
        return str(probe.getsockname()[0])


T = TypeVar("T")
UploadMessage = memoryview | leader_pb2.GradientData


def checked(
    parse: Callable[[bytes], T], most: int = MAX_SAID_BYTES, size_of: Callable[[bytes], int] = len
) -> Callable[[bytes], T]:
    """`parse`, with LimitError for more than `most` bytes, by `size_of`, and PayloadError for what is no message.

    gRPC itself would log a traceback and answer UNKNOWN, or hand the caller None for an answer.
    """

    def parse_or_refuse(message: bytes) -> T:
        if len(message) > most and (size := size_of(message)) > most:
            raise LimitError(f"{size} bytes in one message; at most {most} are read, chunks apart")
        try:
            return parse(message)
        except DecodeError as error:
            raise PayloadError(f"bytes that are no message of this contract: {error}") from None

    return parse_or_refuse


def raw(message: bytes) -> bytes:
    """(De)serialiser of messages that are framed by hand."""
    return message


_upload = checked(leader_pb2.GradientData.FromString, size_of=beside_chunk)
_down = checked(leader_pb2.ModelChunk.FromString, MAX_MESSAGE_BYTES)  # names all work that was counted


def parse_upload(message: bytes) -> UploadMessage:
    """The chunk of a GradientData message without a copy; the whole message if it holds more."""
    chunk = unframe(message)
    return _upload(message) if chunk is None else chunk


def parse_chunk(message: bytes) -> memoryview:
    """The chunk of a ModelChunk or DataChunk message without a copy where it holds nothing else."""
    chunk = unframe(message)
    return memoryview(_down(message).chunk) if chunk is None else chunk


DownMessage = memoryview | leader_pb2.ModelChunk


def parse_down(message: bytes) -> DownMessage:
    """The chunk of a ModelChunk message without a copy; the whole message if it holds more."""
    chunk = unframe(message)
    return _down(message) if chunk is None else chunk
