"""How the leader reaches one learner: one interface, three ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2

from leader.trust.audit.chain import BEGINNING, Head
from leader.trust.identities.callers import Caller
from protos import leader_pb2, learner_pb2
from utils.errors import WireError
from utils.wire import contract
from utils.wire.contract import Method, one
from utils.wire.rpc import channel_options

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 10.0
_OUTBOX = 1000  # messages that wait for a learner that does not read
_HEALTH_CHECK = Method(
    "grpc.health.v1.Health", "Check", one(health_pb2.HealthCheckRequest), one(health_pb2.HealthCheckResponse)
)
#: Opens a channel to HOST:PORT, where this caller says that it listens.
Dial = Callable[[str, Caller], aio.Channel]
_CLOSING: set[asyncio.Task[None]] = set()  # the event loop itself keeps no task alive


class LearnerLink:
    """Pushes control to one learner; never blocks and never raises.

    This one reaches nobody: a plain learner acts by itself, and the leader waits.
    """

    target = ""  # HOST:PORT that is dialled
    addressed = True  # whether what all learners are told goes out by it

    def work(self, order: leader_pb2.WorkOrder) -> None:
        """Tell the learner to do `order`."""

    def committed(self, round_: int, version: int) -> None:
        """Tell the learner that `round_` is on disk and `version` is the newest model."""

    def mask(self, message: leader_pb2.MaskDown) -> None:
        """Tell the learner what a session of secure aggregation says to it."""

    def stop(self, reason: str, *, finished: bool) -> None:
        """Tell the learner that the run is over for it."""

    def end(self) -> None:
        """Let go when what was pushed is through; the learner left, or is reached by another link."""

    async def close(self) -> None:
        """Give what was pushed a moment to arrive and let go."""


class SessionLink(LearnerLink):
    """The learner's own Session stream: messages queue here and the RPC handler sends them."""

    def __init__(self, audit_head: Callable[[], Head] = lambda: BEGINNING) -> None:
        self._audit_head = audit_head
        self._outbox: asyncio.Queue[leader_pb2.LeaderMessage | None] = asyncio.Queue()
        self._gone = asyncio.Event()

    def work(self, order: leader_pb2.WorkOrder) -> None:
        """Queue the order."""
        self._put(leader_pb2.LeaderMessage(work=order))

    def committed(self, round_: int, version: int) -> None:
        """Queue the commit."""
        number, digest = self._audit_head()
        told = leader_pb2.Committed(round=round_, audit_number=number, audit_head=digest)
        self._put(leader_pb2.LeaderMessage(committed=told))

    def mask(self, message: leader_pb2.MaskDown) -> None:
        """Queue the message."""
        self._put(leader_pb2.LeaderMessage(mask=message))

    def stop(self, reason: str, *, finished: bool) -> None:
        """Queue the stop; nothing is sent after it."""
        self._outbox.put_nowait(
            leader_pb2.LeaderMessage(stop=leader_pb2.Stop(reason=reason, finished=finished))
        )
        self.end()

    def end(self) -> None:
        """Close the stream after what is queued."""
        self._outbox.put_nowait(None)

    def _put(self, message: leader_pb2.LeaderMessage) -> None:
        if self._outbox.qsize() < _OUTBOX:
            self._outbox.put_nowait(message)
        else:  # a learner that reads nothing must come back and be given what is open then
            self.end()

    async def next(self) -> leader_pb2.LeaderMessage | None:
        """The next message to send, None after the last."""
        return await self._outbox.get()

    def closed(self) -> None:
        """The stream has ended."""
        self._gone.set()

    async def close(self) -> None:
        """Wait until the learner closed the stream, or a few seconds."""
        try:
            await asyncio.wait_for(self._gone.wait(), _CALL_TIMEOUT_S / 2)
        except TimeoutError:
            _log.debug("session did not close in time")


def dial_in_plain(address: str, caller: Caller) -> aio.Channel:
    """See Dial; whoever answers there is taken for the learner."""
    # Without the scheme gRPC would take unix:1 or xds:1 for more than a host and a port.
    return aio.insecure_channel(f"dns:///{address}", options=channel_options())


class DialledLink(LearnerLink):
    """Calls LearnerService on a channel to the address that the learner gave.

    `lost` is called with a reason when a learner that was reached before can't be reached any
    more; `seen` at every answer; with `heartbeat_s` its health service is asked that often.
    StartTraining may last as long as the training itself: a plain learner trains inside it.
    """

    def __init__(
        self,
        channel: aio.Channel,
        *,
        work_timeout_s: float,
        heartbeat_s: float | None,
        seen: Callable[[], None],
        lost: Callable[[str], None],
        target: str = "",
    ) -> None:
        self.target = target
        self._channel = channel
        self._work_timeout_s = work_timeout_s
        self._seen = seen
        self._lost = lost
        self._reached = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._again = False
        self._heart = None if heartbeat_s is None else asyncio.create_task(self._beat(heartbeat_s))

    async def _beat(self, heartbeat_s: float) -> None:
        """Ask the learner's health service at each heartbeat; its lease runs out when it is silent."""
        while True:
            try:
                await _HEALTH_CHECK.ask(self._channel, health_pb2.HealthCheckRequest(), heartbeat_s)
                self._reached = True
                self._seen()
            except (aio.AioRpcError, WireError) as error:
                _log.debug("health check failed: %s", error)
            await asyncio.sleep(heartbeat_s)

    def work(self, order: leader_pb2.WorkOrder) -> None:
        """Call StartTraining; orders that come while a call is under way share the next one."""
        if self._starting is not None and not self._starting.done():
            self._again = True
            return
        self._starting = self._spawn(self._start())

    async def _start(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            await self._call(contract.START_TRAINING, learner_pb2.Empty(), self._work_timeout_s)

    def committed(self, round_: int, version: int) -> None:
        """Call SyncModelState with an empty chunk: the learner fetches the model when it needs it."""
        state = learner_pb2.ModelState(version=version, committed_round=round_)
        self._spawn(self._call(contract.SYNC_MODEL_STATE, state, _CALL_TIMEOUT_S))

    def stop(self, reason: str, *, finished: bool) -> None:
        """Call StopTraining, where the learner knows it."""
        notice = learner_pb2.StopNotice(reason=reason, finished=finished)
        self._spawn(self._call(contract.STOP_TRAINING, notice, _CALL_TIMEOUT_S))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _call(self, method: Method[Any, learner_pb2.Ack], request: Message, timeout_s: float) -> None:
        try:
            await method.ask(self._channel, request, timeout_s)
        except WireError as error:
            _log.debug("%s was answered, but %s", method.name, error)
        except aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            _log.debug("%s failed: %s", method.name, reason)
            if self._reached and method is contract.START_TRAINING:
                self._lost(reason)
            return
        self._reached = True
        self._seen()

    def end(self) -> None:
        """Close without waiting for it."""
        closing = asyncio.ensure_future(self.close())
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)

    async def close(self) -> None:
        """Wait for the calls under way, a few seconds at most, and close the channel."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CALL_TIMEOUT_S / 2)
            for task in late:
                task.cancel()
        if self._heart is not None:
            self._heart.cancel()
        await self._channel.close()
