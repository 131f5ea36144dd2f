"""A TCP proxy that makes the network between two programs as bad as a test asks for."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from tests.tools.line import Line

Direction = Literal["up", "down"]  # up: from who dialled the proxy to the target
T = TypeVar("T")

_QUEUED_CHUNKS = 32  # on their way per connection and direction; more wait at the sender
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST and drops what is unsent
_NO_RESET = struct.pack("ii", 0, 0)


class _CutError(Exception):
    """The connection is to be reset."""


@dataclass
class _Lane(Line):
    """One direction of all connections together."""

    bytes: int = 0  # forwarded so far
    fuse: int | None = None  # bytes until the connection that carries them is reset


@dataclass(eq=False)
class _Pipe:
    """One connection from a client through to the target."""

    client: socket.socket
    target: socket.socket
    closed: set[Direction] = field(default_factory=set)  # directions that `half_close` has ended

    def __post_init__(self) -> None:
        for end in (self.client, self.target):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def end_orderly(self) -> None:
        """Both directions have ended: closing shall not reset the connection."""
        for end in (self.client, self.target):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """Where bytes of this direction come from and go to."""
        return (self.client, self.target) if direction == "up" else (self.target, self.client)


class Proxy:
    """Forwards TCP connections from a port of 127.0.0.1 to one target, and spoils them when told to.

    It lives in a thread of its own; every method may be called from any other thread and has taken
    effect when it returns. `up` is the direction towards the target. All that went through it is in
    `heard`, if that is to be kept.
    """

    def __init__(self, target_host: str, target_port: int, *, listens: bool = False) -> None:
        self.heard = bytearray() if listens else None
        self._target = (target_host, target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener = socket.socket()
        self._accepting: asyncio.Task[None] | None = None
        self._lanes: dict[Direction, _Lane] = {"up": _Lane(), "down": _Lane()}
        self._pipes: dict[_Pipe, asyncio.Task[None]] = {}
        self._flowing = asyncio.Event()
        self._opened = asyncio.Condition()
        self._refusing = False
        self._hold = 0
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what a test says ------------------------------------------------------------------

    def start(self) -> str:
        """Listen; returns HOST:PORT to dial instead of the target."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._thread.start()
        self._do(self._start())
        return self.address

    def close(self) -> None:
        """Reset all connections and stop listening."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set_delay(self, seconds: float) -> None:
        """Deliver what arrives from now on `seconds` later, in each direction."""
        self._do(self._set(delay_s=seconds))

    def set_bandwidth(self, bytes_per_s: float | None) -> None:
        """Let this much through in each direction, over all connections; None is no limit."""
        self._do(self._set(bytes_per_s=bytes_per_s))

    def cut(self) -> None:
        """Reset all open connections."""
        self._do(self._cut())

    def cut_after(self, byte_count: int, direction: Direction = "up") -> None:
        """Once, when so many more bytes went that way, reset the connection that carried the last."""
        self._do(self._cut_after(byte_count, direction))

    def half_close(self, direction: Direction = "up") -> None:
        """End one direction of all open connections; what is sent that way later is thrown away."""
        self._do(self._half_close(direction))

    def refuse(self, refusing: bool) -> None:
        """Reset new connections at once, or take them again."""
        self._do(self._refuse(refusing))

    def pause(self) -> None:
        """Forward nothing until `resume`; all connections stay open."""
        self._do(self._let_flow(False))

    def resume(self) -> None:
        """Forward again, first what came in the meantime."""
        self._do(self._let_flow(True))

    def hold_new(self, count: int) -> None:
        """Keep the next `count` connections waiting, then let them through in reversed order.

        A count of 0 lets through what is held now.
        """
        self._do(self._hold_new(count))

    def wait_connections(self, count: int, timeout: float) -> None:
        """Wait until at least `count` connections are open; raises TimeoutError."""
        self._do(self._wait_connections(count, timeout))

    @property
    def address(self) -> str:
        """HOST:PORT to dial instead of the target."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """Connections that are open through to the target."""
        return len(self._pipes)

    @property
    def bytes_up(self) -> int:
        """Bytes forwarded to the target so far."""
        return self._lanes["up"].bytes

    @property
    def bytes_down(self) -> int:
        """Bytes forwarded from the target so far."""
        return self._lanes["down"].bytes

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # --- in the loop's thread --------------------------------------------------------------

    async def _start(self) -> None:
        self._flowing.set()
        self._accepting = asyncio.create_task(self._accept())

    async def _close(self) -> None:
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait((self._accepting,))
        self._listener.close()
        await self._cut()

    async def _set(self, **values: float | None) -> None:
        for lane in self._lanes.values():
            for name, value in values.items():
                setattr(lane, name, value)

    async def _cut(self) -> None:
        for client in self._held:
            _reset(client)
        self._held.clear()
        tasks = tuple(self._pipes.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut_after(self, byte_count: int, direction: Direction) -> None:
        self._lanes[direction].fuse = byte_count

    async def _half_close(self, direction: Direction) -> None:
        for pipe in self._pipes:
            if direction not in pipe.closed:
                pipe.closed.add(direction)
                with suppress(OSError):  # it was ended from the other side just now
                    pipe.ends(direction)[1].shutdown(socket.SHUT_WR)

    async def _refuse(self, refusing: bool) -> None:
        self._refusing = refusing

    async def _let_flow(self, flow: bool) -> None:
        if flow:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _hold_new(self, count: int) -> None:
        self._hold = count
        if len(self._held) >= count:
            await self._release()

    async def _wait_connections(self, count: int, timeout: float) -> None:
        async with asyncio.timeout(timeout), self._opened:
            await self._opened.wait_for(lambda: len(self._pipes) >= count)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            if self._refusing:
                _reset(client)
            elif self._hold:
                self._held.append(client)
                if len(self._held) >= self._hold:
                    await self._release()
            else:
                await self._open(client)

    async def _release(self) -> None:
        self._hold = 0
        held, self._held = self._held, []
        for client in reversed(held):
            await self._open(client)

    async def _open(self, client: socket.socket) -> None:
        target = socket.socket()
        target.setblocking(False)
        try:
            await self._loop.sock_connect(target, self._target)
        except OSError:
            target.close()
            _reset(client)
            return
        pipe = _Pipe(client, target)
        self._pipes[pipe] = task = asyncio.create_task(self._forward(pipe))
        task.add_done_callback(lambda _: self._forget(pipe))
        async with self._opened:
            self._opened.notify_all()

    async def _forward(self, pipe: _Pipe) -> None:
        """Carry both directions until both have ended; whatever else ends this resets both ends."""
        try:
            async with asyncio.TaskGroup() as group:
                for direction in self._lanes:
                    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
                    group.create_task(self._read(pipe, direction, queue))
                    group.create_task(self._write(pipe, direction, queue))
        except* (_CutError, OSError):
            pass
        else:
            pipe.end_orderly()

    def _forget(self, pipe: _Pipe) -> None:
        del self._pipes[pipe]
        pipe.client.close()
        pipe.target.close()

    async def _read(
        self, pipe: _Pipe, direction: Direction, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        source, _ = pipe.ends(direction)
        data = b"more"
        while data:
            data = await self._loop.sock_recv(source, self._lanes[direction].chunk_bytes())
            await queue.put((self._loop.time() + self._lanes[direction].delay_s, data))

    async def _write(
        self, pipe: _Pipe, direction: Direction, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        _, sink = pipe.ends(direction)
        while True:
            arrives_at, data = await queue.get()
            await self._until(arrives_at)
            await self._flowing.wait()
            if direction in pipe.closed:
                if not data:
                    return
                continue
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._send(pipe, direction, memoryview(data), arrives_at)

    async def _until(self, moment: float) -> None:
        if (left := moment - self._loop.time()) > 0:
            await asyncio.sleep(left)

    async def _send(self, pipe: _Pipe, direction: Direction, data: memoryview, arrived_at: float) -> None:
        lane = self._lanes[direction]
        _, sink = pipe.ends(direction)
        while data and direction not in pipe.closed:
            piece = data[: lane.chunk_bytes()]
            data = data[len(piece) :]
            await self._until(lane.carry(len(piece), arrived_at))
            await self._flowing.wait()
            # What the fuse leaves is taken before the next await: other connections use it up too.
            last = lane.fuse is not None and lane.fuse <= len(piece)
            if lane.fuse is not None:
                piece = piece[: lane.fuse]
                lane.fuse = None if last else lane.fuse - len(piece)
            lane.bytes += len(piece)
            if self.heard is not None:
                self.heard += piece
            try:
                await self._loop.sock_sendall(sink, piece)
            except OSError:
                if direction not in pipe.closed:
                    raise
            if last:
                raise _CutError


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
