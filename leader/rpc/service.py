"""The LeaderService RPCs: protobuf in, domain call, protobuf out; errors become gRPC statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc import aio

from leader.config import RunConfig
from leader.data.shard_stream import stream_shard
from leader.events import EventStream, LearnerProgress
from leader.learners.links import SessionLink
from leader.learners.membership import Member
from leader.rpc.agreement import agreed
from leader.rpc.gradient_streams import GradientStreams
from leader.rpc.refusals import Refusals
from leader.rpc.uploads import Uploads
from leader.training.coordinator import Coordinator
from protos import leader_pb2
from utils import faults
from utils.datasets import Dataset
from utils.errors import (
    IncompatibleError,
    LateUpdateError,
    NotReadyError,
    PayloadError,
    StalledError,
    WireError,
)
from utils.wire.rpc import SERVICE, UploadMessage, checked, parse_upload, raw
from utils.wire.status import REFUSED, status_of
from utils.wire.watchdog import Watchdog

_log = logging.getLogger(__name__)
Context = aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Any]]


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
        self._workforce = coordinator.workforce
        self._uploads = uploads
        self._gradients = (
            GradientStreams(coordinator, coordinator.pipelining, uploads, config.limits)
            if coordinator.pipelining
            else None
        )
        self._data = data
        self._events = events
        self._transfers = asyncio.Semaphore(config.limits.transfers)
        self._refusals = refusals

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        unary, down = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "RegisterLearner": unary(
                self._answering("RegisterLearner", self._register, leader_pb2.LearnerInfo.FromString),
                raw,
                leader_pb2.AckWithMetadata.SerializeToString,
            ),
            "GetWork": unary(
                self._answering("GetWork", self._get_work, leader_pb2.WorkRequest.FromString),
                raw,
                leader_pb2.WorkOrders.SerializeToString,
            ),
            "GetUpload": unary(
                self._answering("GetUpload", self._get_upload, leader_pb2.UploadRequest.FromString),
                raw,
                leader_pb2.UploadStatus.SerializeToString,
            ),
            "GetModel": down(
                self._answering("GetModel", self._get_model, leader_pb2.Empty.FromString), raw, raw
            ),
            "GetData": down(
                self._answering("GetData", self._get_data, leader_pb2.LearnerDataRequest.FromString), raw, raw
            ),
            "AccumulateGradients": grpc.stream_unary_rpc_method_handler(
                self._answering("AccumulateGradients", self._accumulate, lambda messages: messages),
                checked(parse_upload),
                leader_pb2.Ack.SerializeToString,
            ),
            "ExchangeGradients": grpc.stream_stream_rpc_method_handler(
                self._answering("ExchangeGradients", self._exchange_gradients, lambda messages: messages),
                checked(parse_upload),
                raw,
            ),
            "Session": grpc.stream_stream_rpc_method_handler(
                self._session,
                checked(leader_pb2.LearnerMessage.FromString),
                leader_pb2.LeaderMessage.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _answering(self, method: str, call: Call, parse: Callable[[Any], Any]) -> Call:
        """`call`, with Flockstep's errors told to the peer as gRPC statuses.

        The request is parsed in here: what gRPC can't parse itself it answers with UNKNOWN, and logs
        a traceback each time.
        """

        parsed = checked(parse)

        async def answer(request: Any, context: Context) -> Any:
            try:
                return await call(parsed(request), context)
            except WireError as error:
                await self._abort(method, context, error)

        return answer

    async def _abort(self, method: str, context: Context, error: WireError) -> None:
        member = self._workforce.members.at_peer(context.peer())
        try:
            await context.abort(status_of(error), f"{REFUSED}{error}")
        except aio.AbortError:
            # A stream whose connection broke ends like one that is too short, but there nobody is refused:
            # only where the status could be sent is this error raised.
            self._refusals.note(method, error, member.learner_id if member else None)
            raise

    async def _register(self, info: leader_pb2.LearnerInfo, context: Context) -> leader_pb2.AckWithMetadata:
        if self._coordinator.over:
            raise NotReadyError("the run is over")
        member = self._workforce.register(info, context.peer())
        return leader_pb2.AckWithMetadata(
            success=True,
            message=f"registered as {member.name}",
            learner_id=member.learner_id,
            max_learners=self._workforce.members.max_learners,
            token=member.token,
            name=member.name,
            run=agreed(self._description, info),
        )

    def _member(self, token: bytes, network_addr: str, context: Context) -> Member:
        members = self._workforce.members
        member = members.by_token(token) if token else members.by_address(network_addr, context.peer())
        members.touch(member, time.monotonic())
        return member

    async def _get_work(self, request: leader_pb2.WorkRequest, context: Context) -> leader_pb2.WorkOrders:
        member = self._member(request.token, "", context)
        return leader_pb2.WorkOrders(orders=self._coordinator.work_of(member))

    async def _get_upload(
        self, request: leader_pb2.UploadRequest, context: Context
    ) -> leader_pb2.UploadStatus:
        member = self._member(request.token, "", context)
        if self._gradients is not None and (refusal := self._gradients.refusal(member)):
            raise refusal
        self._coordinator.check_open(request.work_id)
        return leader_pb2.UploadStatus(received=self._uploads.received(request))

    async def _get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        versions = self._coordinator.versions
        if request.token:
            self._member(request.token, "", context)
        elif versions.number is not None:
            await self._coordinator.fresh_model(context.peer(), self._config.limits.stall_s)
        try:
            version = versions.get(request.version if request.HasField("version") else None)
            have = request.have if request.HasField("have") else None
            await self._send(versions.stream(version, have), context)
        except LateUpdateError:  # the version is gone, perhaps since the download began
            if request.token:
                self._coordinator.outdated(self._member(request.token, "", context), request.version)
            raise

    async def _get_data(self, request: leader_pb2.LearnerDataRequest, context: Context) -> None:
        member = self._member(request.token, request.network_addr, context)
        if self._data is None:
            raise PayloadError("this leader hands out no data; start the learner with --data DIR")
        await self._workforce.changed.wait_until(
            lambda: self._coordinator.over or self._workforce.dealt, self._config.limits.stall_s
        )
        indices = self._workforce.shard_of(member, request.shard if request.HasField("shard") else None)
        _log.debug("GetData from learner %d: %d examples", member.learner_id, len(indices))
        await self._send(stream_shard(self._data, indices, self._config.limits.chunk_bytes), context)

    async def _send(self, messages: Iterable[bytes], context: Context) -> None:
        """Stream framed messages; a learner that takes none for limits.stall_s is let go."""
        complaint = "the download made no progress; fetch it again"
        async with self._transfers, Watchdog(self._config.limits.stall_s, complaint) as watchdog:
            for message in messages:
                await context.write(message)
                watchdog.progress()
                self._coordinator.traffic.down += len(message)
                faults.reach("leader.downloading", self._coordinator.state.round + 1)

    async def _accumulate(self, messages: AsyncIterator[UploadMessage], context: Context) -> leader_pb2.Ack:
        stream = aiter(messages)
        first = await self._uploads.first(stream)
        header = first.header if not isinstance(first, memoryview) and first.HasField("header") else None
        member = self._member(header.token if header else b"", "", context)
        if header is None:
            work_id = await self._coordinator.plain_work(member, self._config.limits.stall_s)
        else:
            work_id = header.work_id
        self._coordinator.check_open(work_id)
        async with self._transfers, self._uploads.receiving(first, stream) as upload:
            await self._coordinator.submit(member, upload, work_id)
        return leader_pb2.Ack(success=True, message="counted")

    async def _exchange_gradients(self, messages: AsyncIterator[UploadMessage], context: Context) -> None:
        if self._gradients is None:
            raise IncompatibleError(
                "steps of this run are not pipelined; send updates with AccumulateGradients"
            )

        def member_of(token: bytes) -> Member:
            return self._member(token, "", context)

        await self._gradients.serve(member_of, aiter(messages), context.write)

    async def _session(
        self, messages: AsyncIterator[leader_pb2.LearnerMessage], context: Context
    ) -> AsyncIterator[leader_pb2.LeaderMessage]:
        stream = aiter(messages)
        try:
            member = await self._greet(stream)
        except WireError as error:
            await self._abort("Session", context, error)
            return
        link = SessionLink()
        self._workforce.attach(member, link)
        self._coordinator.resend_work(member)
        listener = asyncio.ensure_future(self._listen(member, link, stream))
        try:
            while (message := await link.next()) is not None:
                yield message
        finally:
            listener.cancel()
            link.closed()
            self._workforce.detach(member, link)

    async def _greet(self, stream: AsyncIterator[leader_pb2.LearnerMessage]) -> Member:
        try:
            async with asyncio.timeout(self._config.limits.hello_s):
                first = await anext(stream, None)
        except TimeoutError:
            raise StalledError("the session was opened but nobody said hello") from None
        if first is None or first.WhichOneof("kind") != "hello":
            raise PayloadError("a session begins with hello")
        return self._workforce.members.by_token(first.hello.token)

    async def _listen(
        self, member: Member, link: SessionLink, stream: AsyncIterator[leader_pb2.LearnerMessage]
    ) -> None:
        """Take what the learner says until it closes its side; then close ours."""
        try:
            async for message in stream:
                self._workforce.members.touch(member, time.monotonic())
                self._heed(member, message)
        except WireError as error:
            self._refusals.note("Session", error, member.learner_id)
        except aio.BaseError as error:
            _log.debug("session of %s broke: %s", member.name, error)
        finally:
            link.end()

    def _heed(self, member: Member, message: leader_pb2.LearnerMessage) -> None:
        match message.WhichOneof("kind"):
            case "progress":
                progress = message.progress
                self._events.publish(
                    LearnerProgress(
                        member.learner_id,
                        self._coordinator.state.round + 1,
                        progress.done,
                        progress.total,
                        progress.images_per_s,
                    )
                )
            case "failure":
                reason = message.failure.message[:500]
                self._workforce.leave(member, f"failed: {reason}")
                self._coordinator.failed(member, message.failure.work_id, reason)
            case "goodbye":
                self._workforce.leave(member, message.goodbye.reason[:500] or "said goodbye")
            case _:
                pass  # a heartbeat says only that the learner lives
