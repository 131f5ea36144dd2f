"""The half of LeaderService that moves bytes, as an edge answers it: to whoever has a ticket."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc import aio

from leader.config import LimitsConfig
from leader.edge.broken_uploads import BrokenUploads
from leader.edge.joined import Joined
from leader.edge.link import Link
from leader.edge.models import Models
from leader.evaluation.federated import check_metrics
from leader.rpc.downloads import Downloads
from leader.rpc.uploads import Uploads, header_of
from leader.services.cache import Cache
from leader.training.round_metrics import Traffic
from leader.trust.identities.callers import Anybody, Caller, caller_of
from leader.trust.identities.revocations import Revocations
from protos import edge_pb2, leader_pb2
from utils import faults
from utils.errors import ForbiddenError, NotReadyError, PayloadError, WireError
from utils.wire import contract
from utils.wire.contract import Context
from utils.wire.rpc import UploadMessage
from utils.wire.status import refuse

_log = logging.getLogger(__name__)


class EdgeDesk:
    """What answers learners; `link` is that of now, None while there is none."""

    def __init__(
        self,
        joined: Joined,
        link: Callable[[], Link | None],
        models: Models,
        cache: Cache,
        revocations: Callable[[], Revocations],
    ) -> None:
        limits: LimitsConfig = joined.config.limits
        self._link_now = link
        self._models = models
        self._revocations = revocations
        #: Identities by the places of callers that have shown their tickets, the newest last.
        self.guests: dict[str, str] = {}
        self._most_guests = limits.max_learners
        traffic = Traffic()
        self._downloads = Downloads(limits, traffic)
        self._uploads = Uploads(joined.reader, limits, traffic, self._is_open, self._at_chunk)
        self.broken = BrokenUploads(self._uploads, cache, joined.welcome.run_id)

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        calls: dict[contract.Method[Any, Any], contract.Call] = {
            contract.GET_MODEL: self._get_model,
            contract.GET_UPLOAD: self._get_upload,
            contract.ACCUMULATE: self._accumulate,
        }
        return contract.serve(calls, refuse_call)

    def handler_below(self) -> grpc.GenericRpcHandler:
        """What edges below call; they are as much the leader's as this one."""
        return contract.serve({contract.GET_MODEL: self._get_model_below}, refuse_call)

    def _link(self) -> Link:
        link = self._link_now()
        if link is None or link.over:
            raise NotReadyError("this edge has no leader at the moment; go to another, or to the leader")
        return link

    def _is_open(self, work_id: str) -> bool:
        link = self._link_now()
        return link is not None and link.is_open(work_id)

    def _at_chunk(self) -> None:
        link = self._link_now()
        faults.reach("edge.uploading", link.round if link is not None else 0)

    async def _ticket(self, sealed: bytes, context: Context) -> edge_pb2.Ticket:
        """What the caller may do, now; it is a guest from then on. Raises WireError."""
        link = self._link()
        ticket = link.joined.ticket(sealed)
        await link.until_open(ticket)
        self._revocations().check(ticket.identity)
        self._welcome(caller_of(context).place, ticket.identity)
        return ticket

    def check(self, caller: Caller) -> None:
        """Raises ForbiddenError where the caller's last ticket was given to whoever is admitted no more."""
        self._revocations().check(self.guests.get(caller.place, ""))

    def _welcome(self, place: str, identity: str) -> None:
        self.guests.pop(place, None)
        self.guests[place] = identity
        if len(self.guests) > self._most_guests:
            del self.guests[next(iter(self.guests))]

    async def _get_model(self, request: leader_pb2.Empty, context: Context) -> None:
        ticket = await self._ticket(request.ticket, context)
        if request.version != ticket.version:
            raise ForbiddenError(f"this ticket is for model version {ticket.version}; fetch that")
        have = request.have if request.HasField("have") else None
        messages = self._models.stream(ticket.version, have)
        await self._downloads.send(messages, context, caller_of(context).place, ranked=True)

    async def _get_model_below(self, request: leader_pb2.Empty, context: Context) -> None:
        have = request.have if request.HasField("have") else None
        messages = self._models.stream(request.version, have)
        await self._downloads.send(messages, context, caller_of(context).place, ranked=True)

    async def _get_upload(
        self, request: leader_pb2.UploadRequest, context: Context
    ) -> leader_pb2.UploadStatus:
        ticket = await self._ticket(request.ticket, context)
        if request.work_id != ticket.work_id:
            raise PayloadError("the update is for other work than its ticket")
        received = await self.broken.received(f"learner {ticket.learner_id}", request)
        return leader_pb2.UploadStatus(received=received)

    async def _accumulate(self, messages: AsyncIterator[UploadMessage], context: Context) -> leader_pb2.Ack:
        link, place = self._link(), caller_of(context).place
        async with self._uploads.opening(place, messages, ranked=place in self.guests) as opening:
            header = header_of(opening.message)
            if header is None:
                raise PayloadError("an edge takes updates with a ticket; send this one to the leader")
            link.joined.ticket_of(header.ticket, header)
            check_metrics(header, 0)
            ticket = await self._ticket(header.ticket, context)
            async with self._uploads.receiving(f"learner {ticket.learner_id}", opening, messages) as upload:
                await link.take(ticket, upload)
        return leader_pb2.Ack(success=True, message="counted")


class TicketHolders(Anybody):
    """Callers of whom a ticket alone says who they are."""

    def __init__(self, desk: EdgeDesk) -> None:
        self._desk = desk

    def check(self, caller: Caller) -> None:
        """See Identifying."""
        self._desk.check(caller)


async def refuse_call(method: str, context: Context, error: WireError) -> None:
    """End a call with the status that tells the error."""
    _log.debug("%s of %s is refused: %s", method, context.peer(), error)
    try:
        await refuse(context, error)
    except aio.InternalError as broken:
        _log.debug("%s: the connection ended before its refusal was read: %s", method, broken)
