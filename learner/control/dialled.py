"""LearnerService: control for a learner that the leader can dial."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc

from learner.trust.access import Access
from learner.wire.connection import Connection
from learner.work.worker import Worker
from protos import leader_pb2, learner_pb2
from utils.errors import ConfigError, FlockstepError, ForbiddenError, WireError
from utils.trust.credentials import Credentials
from utils.wire import contract
from utils.wire.rpc import server_options
from utils.wire.status import failures_told, refuse

_CALL_TIMEOUT_S = 10.0
_SILENCE_LEASES = 4  # heartbeats missed before the leader counts as gone


class LearnerServer:
    """Serves LearnerService at one address for as long as the learner lives."""

    def __init__(self, address: str, worker: Worker, access: Access) -> None:
        self._address = address
        self._worker = worker
        self._access = access
        self._credentials: Credentials | None = None
        self._server: aio.Server | None = None
        self._connection: Connection | None = None
        self._stop: leader_pb2.Stop | None = None
        self._heard = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.START_TRAINING: self._start_training,
            contract.SYNC_MODEL_STATE: self._sync_model_state,
            contract.STOP_TRAINING: self._stop_training,
        }
        return contract.serve(calls, _refuse)

    async def listen(self) -> None:
        """Listen, with the credentials of the channel to the leader where it has any.

        Raises ConfigError if the port is taken or the address is not this machine's.
        """
        credentials = self._access.credentials
        if self._server is not None and credentials == self._credentials:
            return
        await self.close()
        self._credentials = credentials
        self._server = server = aio.server(
            options=server_options(), interceptors=(contract.Door(self._admit),)
        )
        server.add_generic_rpc_handlers((self.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        try:
            if credentials is None:
                server.add_insecure_port(self._address)
            else:
                server.add_secure_port(self._address, credentials.for_server())
        except RuntimeError:
            raise ConfigError(
                f"--network-addr: can't listen on {self._address}: the port is taken or the address is not "
                "this machine's; choose another, or leave it out (the learner then dials the leader)"
            ) from None
        await server.start()

    async def _admit(
        self, method: str, answer: contract.Call, request: Any, context: contract.Context
    ) -> Any:
        """Answer a call, which is a sign of life from the leader, unless it is somebody else's."""
        try:
            self._access.admit(context)
        except ForbiddenError as error:
            await _refuse(method, context, error)
        self._heard.set()
        return await answer(request, context)

    async def run(self, connection: Connection) -> leader_pb2.Stop | None:
        """Serve this registration; the leader's Stop, or None when it was silent for too long.

        Raises UnreachableError or what the leader refused to tell its orders with.
        """
        self._connection = connection
        silence_s = _SILENCE_LEASES * connection.run.heartbeat_s
        try:
            # What was ordered before this registration is not told again.
            await self._take_work(connection)
            while self._stop is None:
                self._heard.clear()
                async with asyncio.timeout(silence_s):
                    await self._heard.wait()
        except TimeoutError:
            return None
        finally:
            self._connection = None
        return self._stop

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await self._server.stop(0.5)

    async def _start_training(self, request: learner_pb2.Empty, context: object) -> learner_pb2.Ack:
        connection = self._connection
        if connection is None:
            return learner_pb2.Ack(success=False, message="not registered yet")
        try:
            taken = await self._take_work(connection)
        except FlockstepError as error:
            return learner_pb2.Ack(success=False, message=str(error))
        return learner_pb2.Ack(success=True, message=f"{taken} orders taken")

    async def _take_work(self, connection: Connection) -> int:
        request = leader_pb2.WorkRequest(token=connection.token)
        with failures_told():
            orders = (await connection.stub.get_work(request, _CALL_TIMEOUT_S)).orders
        for order in orders:
            self._worker.order(order)
            self._access.ordered()
        return len(orders)

    async def _sync_model_state(self, state: learner_pb2.ModelState, context: object) -> learner_pb2.Ack:
        # An order names the version that it needs, so the model is fetched when it is needed.
        self._worker.committed(state.committed_round)
        self._access.committed(leader_pb2.Committed(round=state.committed_round))
        return learner_pb2.Ack(success=True, message="noted")

    async def _stop_training(self, notice: learner_pb2.StopNotice, context: object) -> learner_pb2.Ack:
        self._stop = leader_pb2.Stop(reason=notice.reason, finished=notice.finished)
        self._heard.set()
        return learner_pb2.Ack(success=True, message="stopping")


async def _refuse(method: str, context: contract.Context, error: WireError) -> None:
    await refuse(context, error, "learner: ")
