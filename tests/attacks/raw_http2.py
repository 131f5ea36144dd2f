"""A client that speaks HTTP/2 by hand, and so may do what no gRPC client would: attackers below gRPC."""

from __future__ import annotations

import asyncio
import ssl
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Encoder

from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME
from utils.wire.rpc import SERVICE

WINDOW_BYTES = 65_535  # of each stream and of the connection, where nothing else is said
_HEADERS, _RST_STREAM, _END_STREAM, _END_HEADERS = 0x1, 0x3, 0x1, 0x4  # RFC 9113, 6.2 and 6.4
_READ_BYTES = 1 << 16


def framed(message: Message | bytes) -> bytes:
    """A whole gRPC message."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def half(total: int, sent: bytes) -> bytes:
    """The beginning of a gRPC message that says it is of `total` bytes."""
    return struct.pack(">BI", 0, total) + sent


@dataclass
class Reply:
    """What came back on one stream so far."""

    headers: dict[str, str] = field(default_factory=dict)  # trailers too
    body: bytearray = field(default_factory=bytearray)  # of what has been kept
    received: int = 0  # bytes of the body
    reset: ErrorCodes | int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # by either side, or with the connection

    @property
    def status(self) -> int | None:
        """The gRPC status code; None while there is none."""
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def details(self) -> str:
        """What came with the status."""
        return self.headers.get("grpc-message", "")


class _Unbound(Settings):
    """What the other side has set, but for what it says of streams at once."""

    max_concurrent_streams = property(lambda self: 1 << 31, lambda self, value: None)


class RawConnection:
    """One HTTP/2 connection; entered and left with `async with`.

    Encrypted if it is `held` anything. Where it `grants`, what has come is read at once and the windows are opened
    again. Else no more than `window` bytes a stream come (and WINDOW_BYTES a connection) until `grant` is called.
    `obeys` the other side's bound on streams at once: then `open` raises h2.exceptions.TooManyStreamsError beyond it.
    """

    def __init__(
        self,
        address: str,
        held: Credentials | None = None,
        *,
        window: int = WINDOW_BYTES,
        grants: bool = True,
        obeys: bool = False,
        keeps: bool = True,
    ) -> None:
        self.address = address
        self.replies: dict[int, Reply] = {}
        self.settings = asyncio.Event()  # the other side's have come
        self.ended = asyncio.Event()  # the connection has, by either side
        self._held, self._window, self._grants, self._keeps = held, window, grants, keeps
        self._h2 = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        if not obeys:
            self._h2.remote_settings = _Unbound(client=False)
        self._changed = asyncio.Condition()  # something has come: replies, windows, the end
        self._blind = False

    async def __aenter__(self) -> Self:
        host, _, port = self.address.rpartition(":")
        secure = _tls(self._held) if self._held else None
        name = TLS_NAME if secure else None
        self._reader, self._writer = await asyncio.open_connection(
            host, int(port), ssl=secure, server_hostname=name
        )
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = self._window
        self._h2.local_settings.acknowledge()
        self._h2.initiate_connection()
        self._flush()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Break the connection, without a goodbye."""
        self._writer.transport.abort()
        await self._reading

    def open(self, method: str, *, service: str = SERVICE, more: tuple[tuple[str, str], ...] = ()) -> int:
        """Send a call's headers alone; the number of its stream."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, self._headers(f"/{service}/{method}", more))
        self.replies[stream] = Reply()
        self._flush()
        return stream

    def _headers(self, path: str, more: tuple[tuple[str, str], ...] = ()) -> list[tuple[str, str]]:
        return [
            (":method", "POST"),
            (":scheme", "https" if self._held else "http"),
            (":path", path),
            (":authority", TLS_NAME),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send so much of a stream's body, as its windows permit; how much went before the stream has ended."""
        sent = 0
        while sent < len(data) and (room := await self._wait_for_room(stream)):
            piece = data[sent : sent + room]
            self._h2.send_data(stream, piece)
            sent += len(piece)
            self._flush()
            await self._drain()
        if end and not self.replies[stream].ended.is_set():
            self._h2.end_stream(stream)
            self._flush()
        return sent

    async def _wait_for_room(self, stream: int) -> int:
        """Bytes that may go in one frame; 0 once the stream has ended."""

        def room() -> int:
            return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)

        reply = self.replies[stream]
        await self.until(lambda: reply.ended.is_set() or room() > 0)
        return 0 if reply.ended.is_set() else room()

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until that is so, which is looked at whenever something has come."""
        async with self._changed:
            await self._changed.wait_for(met)

    async def _drain(self) -> None:
        if not self.ended.is_set():
            try:
                await self._writer.drain()
            except OSError:
                self.ended.set()

    async def ask(self, method: str, request: Message | bytes, *, service: str = SERVICE) -> Reply:
        """A unary call or the whole of a server's stream; what came back when it has ended."""
        stream = self.open(method, service=service)
        await self.send(stream, framed(request), end=True)
        reply = self.replies[stream]
        await reply.ended.wait()
        return reply

    def reset(self, stream: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Break one stream off; nothing if it has ended."""
        if not self.replies[stream].ended.is_set():
            self._h2.reset_stream(stream, code)
            self.replies[stream].ended.set()
            self._flush()

    def grant(self, stream: int, count: int) -> None:
        """Let `count` more bytes of a stream come."""
        if not self.replies[stream].ended.is_set():
            self._h2.increment_flow_control_window(count, stream)
            self._h2.increment_flow_control_window(count)
            self._flush()

    def stop_reading(self) -> None:
        """Take nothing more from the socket: what the other side sends fills the kernel's buffers, then its own."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def open_and_reset(self, method: str, count: int, *, service: str = SERVICE) -> int:
        """Open and reset so many streams as fast as they can be written; how many went before the connection ended.

        No reply is kept, and nothing else can be sent over this connection afterwards.
        """
        self._blind = True
        block = Encoder().encode([(n, v, True) for n, v in self._headers(f"/{service}/{method}")])
        first, done, batch = self._h2.get_next_available_stream_id(), 0, 500
        while done < count and not self.ended.is_set():
            ids = range(first + 2 * done, first + 2 * min(count, done + batch), 2)
            self._writer.write(b"".join(_opened_and_reset(stream, block) for stream in ids))
            done += len(ids)
            await self._drain()
            await asyncio.sleep(0)
        return done

    def _flush(self) -> None:
        if not self.ended.is_set():
            self._writer.write(self._h2.data_to_send())

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                if not self._blind:
                    for event in self._h2.receive_data(data):
                        self._handle(event)
                    self._flush()
                    async with self._changed:
                        self._changed.notify_all()
        except (OSError, ProtocolError):  # broken off, by us perhaps
            pass
        finally:
            self.ended.set()
            for reply in self.replies.values():
                reply.ended.set()
            async with self._changed:
                self._changed.notify_all()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self.settings.set()
        stream = getattr(event, "stream_id", None)
        if not isinstance(stream, int) or stream not in self.replies or isinstance(event, WindowUpdated):
            return
        reply = self.replies[stream]
        if isinstance(event, ResponseReceived | TrailersReceived):
            reply.headers |= {_text(name): _text(value) for name, value in event.headers or ()}
        elif isinstance(event, DataReceived):
            reply.received += len(event.data or b"")
            if self._keeps:
                reply.body += event.data or b""
            if self._grants:
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        elif isinstance(event, StreamReset):
            reply.reset = event.error_code
            reply.ended.set()
        elif isinstance(event, StreamEnded):
            reply.ended.set()


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _opened_and_reset(stream: int, block: bytes) -> bytes:
    return (
        len(block).to_bytes(3, "big")
        + struct.pack(">BBI", _HEADERS, _END_HEADERS, stream)
        + block
        + (4).to_bytes(3, "big")
        + struct.pack(">BBII", _RST_STREAM, 0, stream, ErrorCodes.CANCEL)
    )


def _tls(held: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=held.roots.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as pem:
        Path(pem.name).write_bytes(held.key + held.certificate)
        context.load_cert_chain(pem.name)
    return context
