"""The LeaderService RPCs: protobuf in, domain call, protobuf out; errors become gRPC statuses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import grpc
from grpc import aio

from leader.config import RunConfig
from leader.data.shard_stream import stream_shard
from leader.evaluation.federated import check_metrics
from leader.events import EventStream
from leader.learners.membership import Member
from leader.places import Places
from leader.rpc.agreement import agreed
from leader.rpc.downloads import Downloads, begin_answer, each
from leader.rpc.gradient_streams import GradientStreams
from leader.rpc.inline_models import InlineModels
from leader.rpc.refusal_counts import Refusals
from leader.rpc.session import Sessions
from leader.rpc.uploads import Uploads, header_of
from leader.training.coordinator import Coordinator
from leader.trust.access.connections import end_connection
from leader.trust.identities.callers import Caller, caller_of
from protos import leader_pb2
from utils import faults
from utils.datasets import Dataset
from utils.errors import (
    BusyError,
    IncompatibleError,
    LateUpdateError,
    NotReadyError,
    PayloadError,
    WireError,
)
from utils.wire import contract
from utils.wire.contract import Call, Context, Method
from utils.wire.rpc import UploadMessage
from utils.wire.status import refuse

_log = logging.getLogger(__name__)


class LeaderService:
    """One run's gRPC service."""

    def __init__(
        self,
        config: RunConfig,
        description: leader_pb2.RunDescription,
        coordinator: Coordinator,
        uploads: Uploads,
        data: Dataset | None,
        events: EventStream,
        refusals: Refusals,
    ) -> None:
        self._config = config
        self._description = description
        self._coordinator = coordinator
        self._desk = coordinator.desk
        self._workforce = coordinator.workforce
        self._uploads = uploads
        self._gradients = (
            GradientStreams(coordinator, coordinator.streams, uploads, config.limits)
            if coordinator.streams
            else None
        )
        self._data = data
        limits = config.limits

        def at_chunk() -> None:
            faults.reach("leader.downloading", coordinator.state.round + 1)

        self._downloads = Downloads(limits, coordinator.traffic, at_chunk)
        # Each is a window of bytes in gRPC's hands: some may wait for their work, those beyond come again.
        self._early = Places(
            limits.upload_bytes // limits.window_bytes, limits.slow_bytes_per_s, most_waiting=0
        )
        self._parting: dict[
            Context, Caller
        ] = {}  # refused calls of those that have not read yet that they are
        self._refusals = refusals
        # Weights of a pipelined run come over streams of their own.
        most = 0 if coordinator.streams else limits.transfers
        models = InlineModels(coordinator.versions, coordinator.traffic, most, at_chunk)
        self._sessions = Sessions(coordinator, limits.hello_s, events, refusals, models)

    def handler(self, *, work_told: bool = False) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server; `work_told` where no update is read before its work is told."""
        calls: dict[Method[Any, Any], Call] = {
            contract.REGISTER: self._register,
            contract.GET_WORK: self._get_work,
            contract.GET_UPLOAD: self._get_upload,
            contract.GET_MODEL: self._get_model,
            contract.GET_DATA: self._get_data,
            contract.ACCUMULATE: partial(self._accumulate, work_told=work_told),
            contract.EXCHANGE: self._exchange_gradients,
            contract.SESSION: self._session,
        }
        return contract.serve(calls, self.refuse)

    def handler_for_edges(self) -> grpc.GenericRpcHandler:
        """What edges call of it, where they come."""
        return contract.serve({contract.GET_MODEL: self._get_model}, self.refuse)

    async def refuse(self, method: str, context: Context, error: WireError) -> None:
        """End a call with what tells the error."""
        caller = caller_of(context)
        member = self._workforce.of(caller)
        self._part(context, caller)
        try:
            await refuse(context, error)
        except aio.AbortError:
            # A stream whose connection broke ends like one that is too short, but there nobody is refused:
            # only where the status could be sent is this error raised.
            self._refusals.note(method, error, member.learner_id if member else None)
            raise
        except aio.InternalError as broken:
            _log.debug("%s: the connection ended before its refusal was read: %s", method, broken)
        finally:
            self._parting.pop(context, None)

    def _part(self, context: Context, caller: Caller) -> None:
        """Bound what is kept for those that don't read: they get a refusal only after all that was sent before."""
        self._parting[context] = caller
        if len(self._parting) > self._config.limits.transfers:
            oldest = next(iter(self._parting))
            if self._parting.pop(oldest).gateway is None:
                end_connection(oldest.peer())

    def _caller(self, context: Context, token: bytes, network_addr: str = "") -> Member:
        return self._workforce.calling(caller_of(context), token, network_addr)

    async def _register(self, info: leader_pb2.LearnerInfo, context: Context) -> leader_pb2.AckWithMetadata:
        if self._coordinator.over:
            raise NotReadyError("the run is over")
        member = self._workforce.register(info, caller_of(context))
        return leader_pb2.AckWithMetadata(
            success=True,
            message=f"registered as {member.name}",
            learner_id=member.learner_id,
            max_learners=self._config.limits.max_learners,
            token=member.token,
            name=member.name,
            run=agreed(self._description, info),
        )

    async def _get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        member = self._caller(context, request.token)
        if request.wait_s > 0:
            await self._desk.awaited(member, min(request.wait_s, self._config.limits.stall_s))
        return leader_pb2.WorkOrders(orders=self._desk.work_of(member), over=self._coordinator.over)

    async def _get_upload(
        self, request: leader_pb2.UploadRequest, context: Context
    ) -> leader_pb2.UploadStatus:
        member = self._caller(context, request.token)
        if self._gradients is not None and (refusal := self._gradients.refusal(member)):
            raise refusal
        self._desk.check(member, request.work_id)
        return leader_pb2.UploadStatus(received=self._uploads.received(request))

    async def _get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        versions = self._coordinator.versions
        if request.token:
            member: Member | None = self._caller(context, request.token)
        else:
            if (member := self._workforce.of(caller_of(context))) is not None:
                self._workforce.heard(member)
            if versions.number is not None:
                await self._desk.fresh_model(caller_of(context), self._config.limits.stall_s)
        try:
            version = versions.get(request.version if request.HasField("version") else None)
            have = request.have if request.HasField("have") else None
            await self._send(versions.stream(version, have), context, member)
        except LateUpdateError:  # the version is gone, perhaps since the download began
            if request.token:
                self._desk.outdated(self._caller(context, request.token), request.version)
            raise

    async def _get_data(self, request: leader_pb2.LearnerDataRequest, context: Context) -> None:
        member = self._caller(context, request.token, request.network_addr)
        if self._data is None:
            raise PayloadError("this leader hands out no data; start the learner with --data DIR")
        await self._workforce.changed.wait_until(
            lambda: self._coordinator.over or self._workforce.dealt, self._config.limits.stall_s
        )
        indices = self._workforce.shard_of(member, request.shard if request.HasField("shard") else None)
        _log.debug("GetData from learner %d: %d examples", member.learner_id, len(indices))
        await self._send(stream_shard(self._data, indices, self._config.limits.chunk_bytes), context, member)

    async def _send(self, messages: Iterable[bytes], context: Context, member: Member | None) -> None:
        caller = member.identity if member else caller_of(context).place
        await self._downloads.send(each(messages), context, caller, ranked=member is not None)

    async def _accumulate(
        self, messages: AsyncIterator[UploadMessage], context: Context, *, work_told: bool = False
    ) -> leader_pb2.Ack:
        caller, stall_s = caller_of(context), self._config.limits.stall_s
        known = self._workforce.of(caller)
        # Behind a proxy full learners may share a connection with plain ones: only the first message tells them.
        plain = not work_told and all(member.plain for member in self._workforce.sharing(caller))
        if known is not None and plain and not self._owes(known):
            await self._await_work(known)
        async with self._uploads.opening(
            caller.place, messages, ranked=self._owes(known), whole=plain and known is not None
        ) as opening:
            header = header_of(opening.message)
            member = self._caller(context, header.token if header else b"")
            work_id = header.work_id if header else await self._desk.plain_work(member, stall_s)
            self._desk.check(member, work_id)
            check_metrics(header, 0)  # what is more than that is not held while the update waits
            async with self._uploads.receiving(member.identity, opening, messages) as upload:
                await self._desk.submit(member, upload, work_id)
        return leader_pb2.Ack(success=True, message="counted")

    async def _exchange_gradients(self, messages: AsyncIterator[UploadMessage], context: Context) -> None:
        if self._gradients is None:
            raise IncompatibleError(
                "steps of this run are not pipelined; send updates with AccumulateGradients"
            )
        caller = caller_of(context)
        ranked = self._owes(self._workforce.of(caller))
        member_of = partial(self._caller, context)
        await begin_answer(context)
        await self._gradients.serve(caller.place, member_of, messages, context.write, ranked=ranked)

    async def _await_work(self, member: Member) -> None:
        """Before anything is read of what a plain learner sends too early; raises NotReadyError."""
        try:
            async with self._early.hold(member.identity, 1):
                await self._desk.plain_work(member, self._config.limits.stall_s)
        except BusyError:
            raise NotReadyError(
                "no round is open yet, and many wait for it; send the gradients again later"
            ) from None

    def _owes(self, member: Member | None) -> bool:
        return member is not None and bool(self._desk.work_of(member))

    async def _session(self, messages: AsyncIterator[leader_pb2.LearnerMessage], context: Context) -> None:
        await self._sessions.serve(caller_of(context), messages, context.write)
