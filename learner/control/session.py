"""The session: the control stream that the learner opens and the leader pushes orders over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from grpc import aio

from learner.trust.access import Access
from learner.wire.connection import Connection
from learner.work.worker import Worker
from protos import leader_pb2
from utils.errors import WireError
from utils.wire.status import told

_log = logging.getLogger(__name__)
_LONGEST_REASON = 4096  # the leader shows less


class Session:
    """One Session stream, from hello to its end."""

    def __init__(self, connection: Connection, worker: Worker, access: Access) -> None:
        self._connection = connection
        self._worker = worker
        self._access = access
        self._outbox: asyncio.Queue[leader_pb2.LearnerMessage | None] = asyncio.Queue()
        self._put(leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=connection.token)))

    async def run(self) -> leader_pb2.Stop | None:
        """Hand the leader's messages to the worker; its Stop, or None when the stream ended without.

        Raises UnreachableError or what the leader refused the session with.
        """
        heart = asyncio.ensure_future(self._beat())
        try:
            async for message in self._connection.stub.session(self._messages()):
                match message.WhichOneof("kind"):
                    case "work":
                        self._order(message)
                    case "committed":
                        self._worker.committed(message.committed.round)
                        self._access.committed(message.committed)
                    case "mask":
                        self._mask(self._worker.masks.heard(message.mask))
                    case "stop":
                        stop: leader_pb2.Stop = message.stop
                        return stop
        except aio.AioRpcError as error:
            raise told(error) from None
        finally:
            heart.cancel()
            self._outbox.put_nowait(None)
        return None

    def _order(self, message: leader_pb2.LeaderMessage) -> None:
        try:
            self._mask(self._worker.order(message.work, message.model))
            self._access.ordered()
        except WireError as error:  # the leader is to hear why, before this learner ends with that
            self._worker.refuse(message.work.work_id, error)

    def _mask(self, answer: leader_pb2.MaskUp | None) -> None:
        if answer is not None:
            self._put(leader_pb2.LearnerMessage(mask=answer))

    def progress(self, progress: leader_pb2.Progress) -> None:
        """Tell the leader how an order goes."""
        self._put(leader_pb2.LearnerMessage(progress=progress))

    def goodbye(self, reason: str) -> None:
        """Leave: the leader gives this learner's shards to others at once."""
        self._put(leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason=reason)))
        self._outbox.put_nowait(None)

    def failure(self, work_id: str, message: str) -> None:
        """Tell the leader why this learner can't do a work order and leaves."""
        failure = leader_pb2.Failure(work_id=work_id, message=message[:_LONGEST_REASON])
        self._put(leader_pb2.LearnerMessage(failure=failure))
        self._outbox.put_nowait(None)

    def _put(self, message: leader_pb2.LearnerMessage) -> None:
        self._outbox.put_nowait(message)

    async def _messages(self) -> AsyncIterator[leader_pb2.LearnerMessage]:
        while (message := await self._outbox.get()) is not None:
            yield message

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._connection.run.heartbeat_s)
            self._put(leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat()))
