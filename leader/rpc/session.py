"""Serving Session: orders, commits and the stop go down, signs of life and of trouble come up."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator

from grpc import aio

from leader.events import EventStream, LearnerProgress
from leader.learners.links import SessionLink
from leader.learners.membership import Member
from leader.rpc.inline_models import InlineModels, Send
from leader.rpc.refusal_counts import Refusals
from leader.training.coordinator import Coordinator
from leader.trust.access.limiter import Limiter
from leader.trust.identities.callers import Caller
from protos import leader_pb2
from utils.errors import PayloadError, StalledError, WireError

_log = logging.getLogger(__name__)
_LONGEST_REASON = 500
_PER_S, _AT_ONCE = 20.0, 200.0  # messages of one session that are read; a learner sends two or three a second
_FASTEST = 1e12  # images a second that can be meant
Messages = AsyncIterator[leader_pb2.LearnerMessage]


class Sessions:
    """Reads and writes the Session streams of a run."""

    def __init__(
        self,
        coordinator: Coordinator,
        hello_s: float,
        events: EventStream,
        refusals: Refusals,
        models: InlineModels,
    ) -> None:
        self._coordinator = coordinator
        self._workforce = coordinator.workforce
        self._hello_s = hello_s
        self._events = events
        self._refusals = refusals
        self._models = models

    async def serve(self, caller: Caller, messages: Messages, send: Send) -> None:
        """Serve one stream until either side ends it; raises the WireError that it is refused with."""
        member = await self._greet(caller, messages)
        link = SessionLink(self._workforce.audit_head)
        self._workforce.attach(member, link)
        _log.debug("session of %s is open", member.name)
        self._coordinator.returned(member)
        listener = asyncio.ensure_future(self._listen(member, link, messages))
        tell = self._models.beside(member, send)
        try:
            while (message := await link.next()) is not None:
                await tell(message)
        finally:
            listener.cancel()
            link.closed()
            self._workforce.detach(member, link)

    async def _greet(self, caller: Caller, messages: Messages) -> Member:
        try:
            async with asyncio.timeout(self._hello_s):
                first = await anext(messages, None)
        except TimeoutError:
            raise StalledError("the session was opened but nobody said hello") from None
        if first is None or first.WhichOneof("kind") != "hello":
            raise PayloadError("a session begins with hello")
        return self._workforce.by_token(first.hello.token, caller)

    async def _listen(self, member: Member, link: SessionLink, messages: Messages) -> None:
        """Take what the learner says until it closes its side; then close ours."""
        pace = Limiter(_PER_S, 1.0, _AT_ONCE, "messages of a session a second")
        try:
            async for message in messages:
                if wait_s := pace.wait_s(""):
                    await asyncio.sleep(wait_s)  # what is not read, gRPC's flow control holds back
                pace.add("")
                self._workforce.heard(member)
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
                told = message.progress
                round_ = self._coordinator.state.round + 1
                speed = told.images_per_s if 0 <= told.images_per_s < _FASTEST else math.nan
                self._events.publish(LearnerProgress(member.learner_id, round_, told.done, told.total, speed))
            case "failure":
                reason = message.failure.message[:_LONGEST_REASON]
                self._workforce.leave(member, f"failed: {reason}")
                self._coordinator.desk.failed(member, message.failure.work_id, reason)
            case "goodbye":
                self._workforce.leave(member, message.goodbye.reason[:_LONGEST_REASON] or "said goodbye")
            case "mask":
                self._masked(member, message.mask)
            case _:
                pass  # a heartbeat says only that the learner lives

    def _masked(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """A message of secure aggregation; one that is refused ends neither session."""
        try:
            self._coordinator.masked(member, message)
        except WireError as error:
            self._refusals.note("Session", error, member.learner_id)
