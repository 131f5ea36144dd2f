"""The link to the parent: one joined stream, and what is being added for it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import partial

import numpy as np
from grpc import aio
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Elsewhere
from leader.condition import Signal
from leader.distributed import contract
from leader.distributed.edge_below import Partial
from leader.distributed.hub import Hooks, Hub
from leader.distributed.messages import UID_BYTES, members_digest, revocations_of
from leader.distributed.sum_slices import SLICE_BYTES, packed
from leader.edge.joined import Joined, contribution_of
from leader.edge.sums import EdgeSum
from leader.runtime import Host
from leader.training.inbox import Upload
from leader.trust.identities.revocations import Revocations
from protos import edge_pb2
from utils import faults
from utils.errors import LateUpdateError, NotReadyError, PayloadError
from utils.wire.payload import Manifest, Payload
from utils.wire.status import error_named, failures_told

_log = logging.getLogger(__name__)
_OPEN_S = 5.0  # for which an update waits for the message that opens its exchange
_LOST = "this edge has lost its leader; send the update elsewhere"
Say = Callable[[edge_pb2.EdgeUp], None]


class Link:
    """From Welcome to the end of the stream; then all that was added is void."""

    def __init__(
        self,
        joined: Joined,
        channel: aio.Channel,
        say: Say,
        host: Host,
        ended: Callable[[], None],
        served: Callable[[], None],
        revoked: Callable[[Revocations], None],
    ) -> None:
        """`ended` is called when it can't go on, `served` when edges below serve elsewhere, `revoked` with news."""
        self.joined = joined
        self._channel = channel
        self._say = say
        self._host = host
        self._ended = ended
        self._revoked = revoked
        self._opened = edge_pb2.Open()
        self._sum: EdgeSum | None = None
        self._changed = Signal()  # another exchange is open, or the link is over
        self._verdicts: dict[bytes, asyncio.Future[None]] = {}
        self._below: dict[bytes, Contribution] = {}  # that edges below have, by uid
        self._giving: set[asyncio.Task[None]] = set()
        self._one = asyncio.Lock()  # one sum is given at a time
        self._over = False
        config = joined.config
        self.hub = Hub(
            self._welcome_below,
            self._from_below,
            silent_s=config.cohort.lease_s,
            sum_s=config.edges.sum_timeout_s,
            hooks=Hooks(lost=self._lost_below, changed=served),
        )

    # --- updates -----------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The round whose updates are taken."""
        return self._opened.round

    def is_open(self, work_id: str) -> bool:
        """Whether work of this id may belong to the open exchange."""
        return work_id.startswith(f"{self._opened.round}-{self._opened.step}-")

    async def until_open(self, ticket: edge_pb2.Ticket) -> None:
        """Wait for the exchange of a ticket; raises LateUpdateError, or NotReadyError where it does not begin."""
        wanted = _place_of(ticket)

        def has_begun() -> bool:
            return self._over or _place_of(self._opened) >= wanted

        if not await self._changed.wait_until(has_begun, _OPEN_S) or self._over:
            raise NotReadyError("the exchange of this update has not begun here; send it elsewhere")
        _check_place(ticket, self._opened)

    async def take(self, ticket: edge_pb2.Ticket, upload: Upload) -> None:
        """Add an update and have it judged; raises the WireError that it is refused with.

        Whoever sent it may be gone before this is done: what is added is judged nevertheless, and held until then.
        """
        taking = asyncio.ensure_future(self._take(ticket, upload))
        try:
            await asyncio.shield(taking)
        finally:
            await asyncio.wait((taking,))

    async def _take(self, ticket: edge_pb2.Ticket, upload: Upload) -> None:
        faults.reach("edge.received", ticket.round)
        header, opened, total, uid = upload.header, self._opened, self._sum, os.urandom(UID_BYTES)
        if header is None or total is None:
            raise NotReadyError(_LOST)
        _check_place(ticket, opened)  # another may have begun while it came
        make = partial(self.joined.contribution, uid, ticket, header, upload.payload)
        told = (await self._host.compute(total.add, make)).elsewhere
        assert told is not None
        faults.reach("edge.added", ticket.round)
        receipt = edge_pb2.Receipt(
            uid=uid,
            ticket=header.ticket,
            header=header,
            size=upload.bytes,
            squared_norm=told.squared_norm,
            buffers=told.buffers,
        )
        for secret in ("token", "ticket"):  # a request may bring what is the leader's to know
            receipt.header.ClearField(secret)
        try:
            if opened.log:  # it is durable like its update before anybody hears that it counts
                await asyncio.to_thread(self.joined.note, opened, receipt)
        except NotReadyError:
            await self._host.compute(total.refused, uid)
            raise
        await self._judged(receipt)

    async def _judged(self, receipt: edge_pb2.Receipt) -> None:
        """Have a receipt judged above; raises what it is refused with."""
        if self._over:
            raise NotReadyError(_LOST)
        verdict = self._verdicts[receipt.uid] = asyncio.get_running_loop().create_future()
        self._say(edge_pb2.EdgeUp(receipt=receipt))
        try:
            await verdict
        finally:
            self._verdicts.pop(receipt.uid, None)

    # --- what the parent says ------------------------------------------------------------------

    async def heed(self, message: edge_pb2.EdgeDown) -> None:
        """Do what a message says; raises PayloadError where that can't be."""
        match message.WhichOneof("kind"):
            case "open":
                await self._open(message.open)
            case "verdict":
                await self._heed_verdict(message.verdict)
            case "close":
                await self._close(message.close)
            case "revoked":
                self._revoked(revocations_of(message.revoked))
                self.hub.revoke(message.revoked)
            case _:
                raise PayloadError(
                    "the parent said what this release does not know; install the same on both"
                )

    async def _open(self, opened: edge_pb2.Open) -> None:
        for giving in self._giving:
            giving.cancel()
        total = await self._host.compute(EdgeSum, lambda: self.joined.begin(opened))
        self._opened, self._sum = opened, total
        self._below.clear()
        self.hub.open(edge_pb2.Open.FromString(opened.SerializeToString()), total.size)
        self._changed.notify()
        faults.reach("edge.opened", opened.round)
        _log.debug("round %d, step %d is open", opened.round, opened.step)

    async def _heed_verdict(self, verdict: edge_pb2.Verdict) -> None:
        uid, total = verdict.uid, self._sum
        error = error_named(verdict.error, verdict.message, verdict.retry_after_s) if verdict.error else None
        if error is not None:
            self._below.pop(uid, None)
        if total is not None:
            await self._host.compute(total.refused if error else total.counts, uid)
        faults.reach("edge.judged", self._opened.round)
        waiting = self._verdicts.get(uid)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error) if error else waiting.set_result(None)

    async def _close(self, close: edge_pb2.Close) -> None:
        if self._sum is None or close.sum != self._opened.sum:
            return  # the next one is open by now
        faults.reach("edge.closing", self._opened.round)
        await self._host.compute(self._sum.close, close.attempt, frozenset(close.uids))
        giving = asyncio.ensure_future(self._give(close, self._sum))
        self._giving.add(giving)
        giving.add_done_callback(self._given)

    def _given(self, task: asyncio.Task[None]) -> None:
        self._giving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("the sum could not be given: %s", error)
            self._ended()

    async def _give(self, close: edge_pb2.Close, total: EdgeSum) -> None:
        """Give the parent the sum, or say what of it is gone: then it is asked for the rest."""
        async with self._one:
            asked = frozenset(close.uids)
            lacking = await self._host.compute(total.lacks, asked)
            gone = lacking.difference(self._below)
            if lacking and not gone:
                gone = await self.hub.collect(lacking, partial(self._take_below, total))
            if gone:
                self._tell_gone(gone)
                return
            weights, arrays = await self._host.compute(total.summed)
            await self._put(close, weights, arrays)
            await self._host.compute(total.given, close.attempt)
        faults.reach("edge.given", self._opened.round)

    async def _put(
        self, close: edge_pb2.Close, weights: tuple[int, ...], arrays: list[NDArray[np.generic]]
    ) -> None:
        flat = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
        header = edge_pb2.SumHeader(
            token=self.joined.welcome.token,
            sum=close.sum,
            attempt=close.attempt,
            members=members_digest(close.uids),
            weights=weights,
            total_bytes=sum(array.size for array in flat),
        )

        async def chunks() -> AsyncIterator[edge_pb2.SumChunk]:
            yield (chunk := edge_pb2.SumChunk(header=header))
            for array in flat:
                for start in range(0, array.size, SLICE_BYTES):
                    chunk = await self._host.compute(packed, array[start : start + SLICE_BYTES], chunk.crc32)
                    yield chunk
                    faults.reach("edge.sending", self._opened.round)

        faults.reach("edge.giving", self._opened.round)
        with failures_told():
            await contract.PUT_SUM.ask(self._channel, chunks())

    # --- edges below ---------------------------------------------------------------------------

    def _welcome_below(self) -> edge_pb2.Welcome:
        if self._over:  # since the stream below was opened
            raise NotReadyError("this edge has lost its leader; come again")
        welcome = edge_pb2.Welcome()
        welcome.CopyFrom(self.joined.welcome)
        return welcome

    async def _from_below(self, receipt: edge_pb2.Receipt) -> None:
        ticket = self.joined.ticket_of(receipt.ticket, receipt.header)
        if receipt.uid in self._verdicts or receipt.uid in self._below:
            raise PayloadError("a receipt with the uid of another")
        empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), receipt.header.crc32)
        elsewhere = Elsewhere(receipt.uid, receipt.squared_norm, receipt.buffers)
        self._below[receipt.uid] = contribution_of(ticket, receipt.header, empty, elsewhere)
        await self._judged(receipt)

    async def _take_below(self, total: EdgeSum, given: Partial) -> None:
        members = [self._below[uid] for uid in given.uids]
        await self._host.compute(total.merge, members, given.weights, given.data)
        for uid in given.uids:
            self._below.pop(uid, None)

    def _lost_below(self, uids: frozenset[bytes]) -> None:
        if gone := uids & self._below.keys():
            self._tell_gone(gone)

    def _tell_gone(self, uids: frozenset[bytes]) -> None:
        for uid in uids:
            self._below.pop(uid, None)
        self._say(edge_pb2.EdgeUp(gone=edge_pb2.Gone(uids=sorted(uids))))

    # --- the end -------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the stream has ended, or is to."""
        return self._over

    def stop(self, reason: str) -> None:
        """See Work."""
        self.hub.end(reason)

    def end(self) -> None:
        """All that waits is refused: what was added here is void."""
        self._over = True
        for waiting in self._verdicts.values():
            if not waiting.done():
                waiting.set_exception(NotReadyError(_LOST))
        for giving in self._giving:
            giving.cancel()
        self.hub.end()
        self._changed.notify()


def _place_of(one: edge_pb2.Ticket | edge_pb2.Open) -> tuple[int, int]:
    return one.round, one.step


def _check_place(ticket: edge_pb2.Ticket, opened: edge_pb2.Open) -> None:
    if _place_of(ticket) != _place_of(opened):
        raise LateUpdateError(f"update is for round {ticket.round}, which is over; fetch new work")
