"""The edges below: their streams, whose receipts are whose, and the sums that they are asked for.

A leader has one, and so has an edge with edges below it: what becomes of receipts is decided above either way.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

from leader.condition import Signal
from leader.distributed.edge_below import EdgeBelow, Partial, Take, greeted
from leader.distributed.lost_edges import AGAIN_S, LostEdges
from leader.distributed.messages import UID_BYTES, members_digest
from leader.distributed.sum_slices import SumReader
from protos import edge_pb2, leader_pb2
from utils.errors import (
    BusyError,
    LimitError,
    NotReadyError,
    PayloadError,
    UnknownLearnerError,
    WireError,
)
from utils.wire.watchdog import Watchdog

_log = logging.getLogger(__name__)
_MOST_WAITING = 10_000  # receipts of one edge that nobody has judged yet
Send = Callable[[edge_pb2.EdgeDown], Awaitable[None]]


@dataclass(frozen=True)
class Hooks:
    """What is called when something happens to the edges below."""

    #: One serves learners at these addresses from now on, HOST:PORT each.
    serves: Callable[[str, tuple[str, ...]], None] = lambda name, addresses: None
    left: Callable[[str], None] = lambda name: None
    #: Where they serve learners has changed.
    changed: Callable[[], None] = lambda: None
    #: Updates are gone with an edge that had their values, counted or not.
    lost: Callable[[frozenset[bytes]], None] = lambda uids: None
    #: So many bytes of a sum are here.
    came: Callable[[int], None] = lambda size: None


class Hub:
    """The edges whose parent this is."""

    def __init__(
        self,
        welcome: Callable[[], edge_pb2.Welcome],
        submit: Callable[[edge_pb2.Receipt], Awaitable[None]],
        *,
        silent_s: float,
        sum_s: float,
        hooks: Hooks = Hooks(),
    ) -> None:
        """`submit` returns when an update counts, and raises the WireError that it is refused with.

        Args:
            welcome: what an edge is told of the run; its token is set here. Raises what one is refused with.
            silent_s: seconds after which an edge that says nothing is gone.
            sum_s: seconds in which it must bring a sum that it is asked for.
        """
        self._welcome = welcome
        self._submit = submit
        self._silent_s = silent_s
        self._sum_s = sum_s
        self._hooks = hooks
        self._edges: dict[bytes, EdgeBelow] = {}
        self._owner: dict[bytes, EdgeBelow] = {}  # by uid, in the open sum
        self._opened: edge_pb2.Open | None = None
        self._revoked: edge_pb2.Revoked | None = None  # None = nobody has an identity
        self._sum_bytes = 0
        self._sum = 0
        self._attempt = 0
        self._over = ""  # why no more edges are served
        self._away = LostEdges()
        self._ended = Signal()  # a stream has
        self._one = asyncio.Lock()  # one sum is in memory at a time

    # --- what the parent side asks -----------------------------------------------------------

    @property
    def addresses(self) -> tuple[str, ...]:
        """At which learners reach the edges that are here."""
        return tuple(dict.fromkeys(address for edge in self._edges.values() for address in edge.addresses))

    @property
    def serving(self) -> int:
        """How many edges take updates."""
        return sum(bool(edge.addresses) for edge in self._edges.values())

    @property
    def urls(self) -> tuple[str, ...]:
        """At which learners without gRPC reach the edges that are here."""
        return tuple(dict.fromkeys(url for edge in self._edges.values() for url in edge.urls))

    def open(self, opened: edge_pb2.Open, sum_bytes: int) -> None:
        """A sum of `sum_bytes` bytes begins, empty; what was added to the one before is void."""
        self._sum += 1
        opened.sum = self._sum
        self._opened, self._sum_bytes, self._attempt = opened, sum_bytes, 0
        self._owner.clear()
        for edge in self._edges.values():
            edge.uids.clear()
            edge.down.put_nowait(edge_pb2.EdgeDown(open=opened))

    def revoke(self, revoked: edge_pb2.Revoked) -> None:
        """Tell those that are here, and whoever comes, who is admitted no more."""
        self._revoked = revoked
        for edge in self._edges.values():
            edge.down.put_nowait(edge_pb2.EdgeDown(revoked=revoked))

    def holds(self, uid: bytes) -> bool:
        """Whether an edge that is here has added the update."""
        return uid in self._owner

    async def collect(self, uids: Collection[bytes], take: Take) -> frozenset[bytes]:
        """Have the sums over exactly these updates given to `take`, one by one; those that are lost.

        What `take` has taken is the caller's, and no more the edges'. It raises PayloadError for a sum that can't be
        one; then its edge is let go.
        """
        lost: frozenset[bytes] = frozenset(uid for uid in uids if uid not in self._owner)
        left = frozenset(uids) - lost
        while left:
            self._attempt += 1
            groups: dict[EdgeBelow, set[bytes]] = defaultdict(set)
            for uid in left:
                groups[self._owner[uid]].add(uid)
            asked = (self._ask(edge, frozenset(own), take) for edge, own in groups.items())
            missing = frozenset().union(*await asyncio.gather(*asked))
            # What an edge still has when it says that something is gone, it gives when it is asked again.
            left = missing & self._owner.keys()
            lost |= missing - left
        return lost

    async def _ask(self, edge: EdgeBelow, uids: frozenset[bytes], take: Take) -> frozenset[bytes]:
        """The edge's sum over `uids`, given to `take`; those of them that are lost."""
        if not uids <= edge.uids:  # it has gone, or said that some are gone, since it was chosen
            return uids
        edge.asked, edge.take = (self._attempt, uids), take
        edge.given = asyncio.get_running_loop().create_future()
        close = edge_pb2.Close(sum=self._sum, attempt=self._attempt, uids=sorted(uids))
        edge.down.put_nowait(edge_pb2.EdgeDown(close=close))
        try:
            async with asyncio.timeout(self._sum_s) as edge.limit:
                return await asyncio.shield(edge.given)
        except TimeoutError:
            if edge.taking:
                return await edge.given
            edge.lose(f"no sum in {self._sum_s:g} s (edges.sum_timeout_s)")
            self._forget(edge)
            return uids
        finally:
            edge.asked = edge.given = edge.take = edge.limit = None

    def end(self, reason: str = "") -> None:
        """End all streams; with a `reason` the run is over, else the edges are to come again."""
        self._over = self._over or reason
        for edge in self._edges.values():
            if reason:
                edge.down.put_nowait(edge_pb2.EdgeDown(stop=leader_pb2.Stop(reason=reason)))
            edge.down.put_nowait(None)

    @property
    def over(self) -> bool:
        """Whether the run is."""
        return bool(self._over)

    async def dismissed(self) -> None:
        """Where the run is over: returns when nobody is left to hear it, of those here or lost a moment ago."""
        if self._over:
            await self._ended.wait_until(lambda: not self._edges, AGAIN_S)
            await self._away.none_left()

    # --- the streams -------------------------------------------------------------------------

    async def join(self, messages: AsyncIterator[edge_pb2.EdgeUp], send: Send) -> None:
        """Serve one edge's stream until either side ends it; raises the WireError that it is refused with."""
        edge = await greeted(messages, self._silent_s)
        if self._over:  # it comes while the last calls end
            await send(edge_pb2.EdgeDown(stop=leader_pb2.Stop(reason=self._over)))
            self._away.came_again(edge.name)
            return
        self._away.came_again(edge.name)
        self._edges[edge.token], welcome = edge, self._welcome()
        welcome.token = edge.token
        edge.down.put_nowait(edge_pb2.EdgeDown(welcome=welcome))
        if self._revoked is not None:
            edge.down.put_nowait(edge_pb2.EdgeDown(revoked=self._revoked))
        if self._opened is not None:
            edge.down.put_nowait(edge_pb2.EdgeDown(open=self._opened))
        listener = asyncio.ensure_future(self._listen(edge, messages))
        try:
            while (message := await edge.down.get()) is not None:
                await send(message)
                edge.told = message.HasField("stop")
        finally:
            listener.cancel()
            self._forget(edge)

    async def _listen(self, edge: EdgeBelow, messages: AsyncIterator[edge_pb2.EdgeUp]) -> None:
        """Take what the edge says until its stream ends; then end ours."""
        try:
            async with Watchdog(self._silent_s, f"it said nothing for {self._silent_s:g} s") as watchdog:
                async for message in messages:
                    watchdog.progress()
                    self._heed(edge, message)
        except WireError as error:
            edge.lose(str(error))
        finally:
            edge.down.put_nowait(None)

    def _heed(self, edge: EdgeBelow, message: edge_pb2.EdgeUp) -> None:
        match message.WhichOneof("kind"):  # a beat says only that the edge lives
            case "receipt":
                self._receive(edge, message.receipt)
            case "gone":
                self._gone(edge, frozenset(message.gone.uids))
            case "serving":
                edge.serves_at(message.serving)
                self._hooks.serves(edge.name, edge.addresses)
                self._hooks.changed()
            case "goodbye":
                edge.told = True

    def _receive(self, edge: EdgeBelow, receipt: edge_pb2.Receipt) -> None:
        if len(receipt.uid) != UID_BYTES or receipt.uid in self._owner:
            raise PayloadError("it sent a receipt whose uid is not 16 bytes of its own")
        if len(edge.waiting) >= _MOST_WAITING:
            raise LimitError(f"more than {_MOST_WAITING} of its receipts wait")
        self._owner[receipt.uid] = edge
        edge.uids.add(receipt.uid)
        edge.waiting[receipt.uid] = asyncio.ensure_future(self._judge(edge, receipt))

    async def _judge(self, edge: EdgeBelow, receipt: edge_pb2.Receipt) -> None:
        verdict = edge_pb2.Verdict(uid=receipt.uid)
        try:
            await self._submit(receipt)
        except WireError as error:
            verdict.error, verdict.message = type(error).__name__, str(error)
            verdict.retry_after_s = error.retry_after_s if isinstance(error, BusyError) else 0.0
            if self._owner.get(receipt.uid) is edge:
                del self._owner[receipt.uid]
                edge.uids.discard(receipt.uid)
        finally:
            edge.waiting.pop(receipt.uid, None)
        edge.down.put_nowait(edge_pb2.EdgeDown(verdict=verdict))

    def _gone(self, edge: EdgeBelow, uids: frozenset[bytes]) -> None:
        """The edge says that it has these no more."""
        lost = frozenset(edge.uids & uids)
        edge.uids -= lost
        for uid in lost:
            self._owner.pop(uid, None)
        if edge.asked is not None and edge.asked[1] & uids:
            self._no_sum(edge)  # it is asked for the rest again
        self._hooks.lost(lost)

    def _forget(self, edge: EdgeBelow) -> None:
        """The edge is gone, with all that it has added."""
        if self._edges.pop(edge.token, None) is None:
            return
        if not edge.told:
            self._away.lost(edge.name)
        self._ended.notify()
        for task in edge.waiting.values():
            task.cancel()
        lost = frozenset(edge.uids)
        for uid in lost:
            self._owner.pop(uid, None)
        edge.uids.clear()
        self._no_sum(edge)
        self._hooks.lost(lost)
        if edge.addresses:
            self._hooks.left(edge.name)
        self._hooks.changed()

    def _no_sum(self, edge: EdgeBelow) -> None:
        """What the edge was asked for does not come, unless it is here already."""
        if edge.asked is not None and edge.given is not None and not (edge.taking or edge.given.done()):
            edge.given.set_result(edge.asked[1])

    # --- the sums ----------------------------------------------------------------------------

    async def put(self, chunks: AsyncIterator[edge_pb2.SumChunk]) -> None:
        """Take the sum that an edge was asked for; raises the WireError that it is refused with."""
        first = await anext(chunks, None)
        header = first.header if first is not None else edge_pb2.SumHeader()
        edge = self._by_token(header.token)
        try:
            async with edge.in_turn(self._one, self._sum_s):
                partial = await self._read(edge, header, chunks)
                # Whoever made the call may be gone before this is done: what is taken is taken nevertheless.
                await asyncio.shield(asyncio.ensure_future(self._hand_over(edge, partial)))
        except WireError as error:
            edge.lose(str(error))
            raise

    async def _hand_over(self, edge: EdgeBelow, partial: Partial) -> None:
        """From here on the updates in the sum are no more the edge's, whatever becomes of it."""
        take, given = edge.take, edge.given
        assert take is not None
        assert given is not None
        edge.taking, lost = True, partial.uids
        edge.uids -= partial.uids
        for uid in partial.uids:
            self._owner.pop(uid, None)
        try:
            await take(partial)
            lost = frozenset()
        finally:
            edge.taking = False
            if not given.done():
                given.set_result(lost)

    def _by_token(self, token: bytes) -> EdgeBelow:
        for edge in self._edges.values():
            if hmac.compare_digest(edge.token, token):
                return edge
        raise UnknownLearnerError("a sum of an edge that is not here; join first")

    async def _read(
        self, edge: EdgeBelow, header: edge_pb2.SumHeader, chunks: AsyncIterator[edge_pb2.SumChunk]
    ) -> Partial:
        uids = self._asked(edge, header)
        if header.members != members_digest(uids):
            raise PayloadError("its sum is over other updates than it was asked for")
        if header.total_bytes != self._sum_bytes:
            raise PayloadError(f"its sum has {header.total_bytes} bytes, this run's have {self._sum_bytes}")
        reader = SumReader(self._sum_bytes)
        async with Watchdog(self._silent_s, "its sum stood still") as watchdog:
            async for message in chunks:
                self._asked(edge, header)  # else others wait for their turn in vain
                watchdog.progress()
                self._hooks.came(reader.take(message))
        return Partial(self._asked(edge, header), tuple(header.weights), reader.whole())

    def _asked(self, edge: EdgeBelow, header: edge_pb2.SumHeader) -> frozenset[bytes]:
        """Whose sum the edge is to bring; raises NotReadyError where nobody waits for it."""
        if edge.asked is None or (header.sum, header.attempt) != (self._sum, edge.asked[0]):
            raise NotReadyError("nobody waits for this sum, or no more")
        return edge.asked[1]
