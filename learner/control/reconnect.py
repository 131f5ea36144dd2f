"""Reconnecting: a channel, a registration, orders until that breaks, and all of it again until the leader says stop."""

from __future__ import annotations

import asyncio
import logging

from grpc import aio

from learner.control.dialled import LearnerServer
from learner.control.registration import MENDABLE, Registration
from learner.control.session import Session
from learner.options import LearnerOptions
from learner.trust.access import Access
from learner.wire.connection import Connection
from learner.work.worker import Worker, unheard
from protos import leader_pb2
from utils.errors import BusyError, ForbiddenError, UnreachableError
from utils.wire.contract import LeaderStub
from utils.wire.patience import Patience

_log = logging.getLogger(__name__)


class Control:
    """One learner under its leader's control, over as many connections as that takes."""

    def __init__(
        self, options: LearnerOptions, registration: Registration, worker: Worker, access: Access
    ) -> None:
        self._options = options
        self._registration = registration
        self._worker = worker
        self._access = access
        address = options.network_addr
        self._server = LearnerServer(address, worker, access) if address else None
        self._session: Session | None = None  # that is open
        self.leaving = asyncio.Event()  # after this nothing is mended
        self._why = ""  # it leaves

    def leave(self, reason: str) -> None:
        """Say goodbye, where anybody listens, and end."""
        self._why = reason
        self.leaving.set()
        if self._session is not None:
            self._session.goodbye(reason)

    def failed(self, work_id: str, why: str) -> bool:
        """Tell the leader that an order can't be done, and end; whether there is a session to tell it over."""
        if self._session is None:
            return False
        self.leaving.set()
        self._session.failure(work_id, why)
        return True

    async def run(self) -> None:
        """Register and take orders; when the connection breaks, do it again.

        Raises UnreachableError when the leader stays away for too long, and any error that a
        reconnect can't mend.
        """
        patience = Patience(self._options.connect_timeout_s)
        while True:
            try:
                async with await self._access.open() as channel:
                    connection = await self._register(channel)
                    try:
                        stop = await self._serve(connection, channel)
                    finally:
                        patience = Patience(self._options.reconnect_timeout_s, lost=True)
                if stop is not None:
                    _log.info("the leader says stop: %s", stop.reason)
                    return
                problem, least_s = "it closed the session", 0.0
                if self._access.renewed:
                    continue
            except UnreachableError as error:
                problem, least_s = f"{error}; check the address, and that the leader runs", 0.0
            except ForbiddenError:
                if not self._access.outdated():
                    raise
                continue  # it slept when a new certificate's turn came
            except MENDABLE as error:
                problem, least_s = str(error), error.retry_after_s if isinstance(error, BusyError) else 0.0
            if self.leaving.is_set():
                return
            await asyncio.sleep(patience.next_wait(self._options.leader, problem, least_s))

    async def _register(self, channel: aio.Channel) -> Connection:
        if self._server is not None:
            await self._server.listen()
        try:
            return await self._registration.register(LeaderStub(channel))
        except (UnreachableError, ForbiddenError) as error:
            raise await self._access.explain(error) from None

    async def _serve(self, connection: Connection, channel: aio.Channel) -> leader_pb2.Stop | None:
        """Take orders over this connection; the leader's Stop, or None when it is over without.

        Raises what the leader refused control with, and what an order failed with that needs another
        connection.
        """
        session = None if self._server else Session(connection, self._worker, self._access)
        broken = self._worker.connect(connection, session.progress if session else unheard)
        control = asyncio.ensure_future(self._orders(connection, session))
        keeping = asyncio.ensure_future(self._access.keep(channel))
        try:
            await asyncio.wait((control, broken, keeping), return_when=asyncio.FIRST_COMPLETED)
            if control.done():
                return control.result()
            if broken.done():
                raise broken.result()
            return keeping.result()
        finally:
            control.cancel()
            keeping.cancel()
            await asyncio.gather(control, keeping, return_exceptions=True)
            self._worker.disconnect()

    async def _orders(self, connection: Connection, session: Session | None) -> leader_pb2.Stop | None:
        if self._server is not None:
            return await self._server.run(connection)
        assert session is not None
        self._session = session
        if self._why:  # it was told to while it registered
            session.goodbye(self._why)
        try:
            return await session.run()
        finally:
            self._session = None

    async def close(self) -> None:
        """Stop listening, where this learner is dialled."""
        if self._server is not None:
            await self._server.close()
