"""What reaches the coordinator: updates, learners that changed, work that is outdated, one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from leader.aggregation.base import Elsewhere
from leader.learners.membership import Member
from leader.rounds.protocol import Outdated
from protos import leader_pb2
from utils.errors import LateUpdateError
from utils.wire.payload import Payload


@dataclass(frozen=True)
class Submission:
    """A complete update that waits for its turn, and where its fate is told."""

    member: Member
    upload: Upload
    work_id: str
    fate: asyncio.Future[None]
    piece: leader_pb2.Piece | None = None  # where the upload is no more than that


class LearnersChanged:
    """Who is there, or what they hold, may be different from before."""


Arrival = Submission | Outdated | LearnersChanged


class Inbox:
    """Events in the order in which they came."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Arrival] = asyncio.Queue()
        self._woken = False

    def wake(self) -> None:
        """The learners have changed; calls that come together count once."""
        if not self._woken:
            self._woken = True
            self._queue.put_nowait(LearnersChanged())

    def outdated(self, event: Outdated) -> None:
        """Work is to be given out anew."""
        self._queue.put_nowait(event)

    async def submit(
        self, member: Member, upload: Upload, work_id: str, piece: leader_pb2.Piece | None
    ) -> None:
        """Hand an update in, and wait for its fate; raises the WireError that it is refused with."""
        fate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Submission(member, upload, work_id, fate, piece))
        await fate

    async def next(self) -> Arrival:
        """The oldest event, awaited if need be."""
        return self._taken(await self._queue.get())

    def refuse(self, why: str) -> None:
        """Drop all events; updates among them are refused as too late."""
        while not self._queue.empty():
            event = self._taken(self._queue.get_nowait())
            if isinstance(event, Submission) and not event.fate.done():
                event.fate.set_exception(LateUpdateError(why))

    def _taken(self, event: Arrival) -> Arrival:
        if isinstance(event, LearnersChanged):
            self._woken = False
        return event


@dataclass(frozen=True)
class Upload:
    """A complete update as it came from the wire."""

    header: leader_pb2.UpdateHeader | None  # None from a plain learner
    payload: Payload
    bytes: int
    elsewhere: Elsewhere | None = None  # where an edge has it, and the payload is empty
