"""One ExchangeGradients stream: pieces of updates up, new weights down, over many steps."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from grpc import aio

from learner.wire.incoming_weights import Arriving
from learner.wire.streamed_update import SentPiece, StreamedUpdate
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils import faults
from utils.errors import FlockstepError, LateUpdateError, PayloadError, UnreachableError
from utils.vector import Vector
from utils.wire.contract import LeaderStub
from utils.wire.rpc import parse_down
from utils.wire.status import failures_told

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 10.0
Place = tuple[int, int]  # round, step


class GradientStream:
    """Sends updates whose pieces are being made, and again what the leader asks for again.

    `settled` is told of each exchange that is over: its version and weights, (total,), where they have come
    here, and the updates of it that went over this stream with whether they are counted; None = not known.
    """

    def __init__(
        self,
        stub: LeaderStub,
        token: bytes,
        files: PieceFiles,
        settled: Callable[[tuple[int, Vector] | None, list[tuple[StreamedUpdate, bool]]], None],
    ) -> None:
        self._stub = stub
        self._token = token
        self._arriving = Arriving(files)
        self._settled = settled
        self._updates: dict[str, StreamedUpdate] = {}  # by work id, of exchanges that are not over
        self._attempts: dict[Place, int] = {}  # of those that have begun anew
        self._outbox: deque[tuple[StreamedUpdate, SentPiece]] = deque()
        self._filled = asyncio.Event()
        self._looked = asyncio.Event()  # something has come, or ended
        self._sent: tuple[str, bool] | None = None  # update whose header went last, and whether with its time
        self._wanted: set[str] = set()  # ids of work that was asked for anew while its update was on its way
        self._ended = False

    async def run(self) -> None:
        """Work until the leader closes the stream; raises what it was refused or broken with."""
        call = self._stub.exchange()
        writing = asyncio.ensure_future(self._write(call))
        try:
            with failures_told():
                await self._read(call)
        except UnreachableError as error:
            raise await self._refusal() or error from None
        finally:
            self._ended = True
            self._looked.set()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            call.cancel()

    async def _refusal(self) -> FlockstepError | None:
        """What the leader says that it ended the stream for, if it did."""
        # A leader that refuses a stream ends it while we write. grpc.aio then often gives INTERNAL ("Internal
        # error from Core") for the failed write, and drops the leader's status. A unary call always gets its own.
        request = leader_pb2.UploadRequest(token=self._token)
        try:
            with failures_told():
                await self._stub.get_upload(request, _CALL_TIMEOUT_S)
        except (UnreachableError, LateUpdateError):
            return None
        except FlockstepError as error:
            return error
        return None

    @property
    def ended(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._ended

    def sends(self, work_id: str) -> bool:
        """Whether this update goes, or went, over this stream, and its exchange is not over."""
        return work_id in self._updates and not self._ended

    def begin(self, update: StreamedUpdate) -> None:
        """An update's header is there; pieces that are made already follow at once."""
        self._sent = None  # to the leader it may be of another try, which it is to hear of
        self._updates[update.order.work_id] = update
        for piece in update.pieces:
            self._put(update, piece)

    def ask_again(self, work_id: str) -> None:
        """The order of an update that is on its way came anew: should its exchange be given up, it goes once more."""
        self._wanted.add(work_id)

    def made(self, update: StreamedUpdate, piece: SentPiece) -> None:
        """The next piece of an update is there."""
        if self.sends(update.order.work_id):
            self._put(update, piece)

    def _put(self, update: StreamedUpdate, piece: SentPiece) -> None:
        self._outbox.append((update, piece))
        self._filled.set()

    async def over(self) -> None:
        """Wait until every exchange that this stream has an update in is over, or the stream is."""
        while self._updates and not self._ended:
            self._looked.clear()
            await self._looked.wait()

    # --- up --------------------------------------------------------------------------------

    async def _write(self, call: aio.StreamStreamCall[bytes, bytes]) -> None:
        """Send pieces as they come; a failure ends the call, and `_read` tells of it."""
        try:
            while True:
                while not self._outbox:
                    self._filled.clear()
                    await self._filled.wait()
                update, piece = self._outbox.popleft()
                header = (update.order.work_id, update.complete)
                if header != self._sent:
                    said = leader_pb2.UpdateHeader(token=self._token)
                    said.MergeFrom(update.said)
                    await call.write(leader_pb2.GradientData(header=said).SerializeToString())
                    self._sent = header
                await call.write(piece.announced(self._attempts.get(update.place, 0)))
                for message in piece.messages:
                    await call.write(message)
                    faults.reach("learner.uploading", update.order.round)
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError) as error:
            _log.debug("gradient stream broke: %s", error)

    # --- down ------------------------------------------------------------------------------

    async def _read(self, call: aio.StreamStreamCall[bytes, bytes]) -> None:
        while (read := await call.read()) is not aio.EOF:
            assert isinstance(read, bytes)
            message = parse_down(read)
            if isinstance(message, memoryview):
                self._arriving.feed(message)
                faults.reach("learner.downloading", self._newest.order.round if self._newest else 0)
                continue
            if message.chunk:
                raise PayloadError("the leader sent a chunk together with what announces it")
            if message.HasField("piece"):
                self._arriving.begin(message.piece, self._newest.base if self._newest else None)
            if message.HasField("redo"):
                self._redo(message.redo)
            if message.HasField("stepped"):
                self._step(message.stepped)

    @property
    def _newest(self) -> StreamedUpdate | None:
        """The update, or one of those, of the exchange that is open as far as is known here."""
        return max(self._updates.values(), key=lambda update: update.place, default=None)

    def _redo(self, redo: leader_pb2.Redo) -> None:
        """Send all pieces of this exchange's updates again, and forget what came of its weights."""
        place = (redo.round, redo.step)
        self._arriving.clear()
        self._attempts[place] = redo.attempt
        again = [update for update in self._updates.values() if update.place == place]
        self._outbox = deque(entry for entry in self._outbox if entry[0].place != place)
        for update in again:
            _log.info("round %d, step %d begins anew: sending the update again", *place)
            self.begin(update)

    def _step(self, stepped: leader_pb2.Stepped) -> None:
        """An exchange is over, and with it those before."""
        place = (stepped.round, stepped.step)
        over = [update for update in self._updates.values() if update.place <= place]
        newest = all(update.place <= place for update in self._updates.values())
        weights: Vector | None = None
        if (
            stepped.version or newest
        ):  # else this is about an old update, and what has come is of a later step
            weights = self._arriving.take()
        for update in over:
            del self._updates[update.order.work_id]
        self._outbox = deque(entry for entry in self._outbox if entry[0].place > place)
        self._attempts = {key: attempt for key, attempt in self._attempts.items() if key > place}
        got = (stepped.version, weights) if stepped.version and weights is not None else None
        counted = set(stepped.counted)
        given_up = set() if stepped.version else self._wanted - counted
        again = [update for update in over if update.order.work_id in given_up]
        self._wanted.difference_update(update.order.work_id for update in over)
        fates = [(update, update.order.work_id in counted) for update in over if update not in again]
        self._settled(got, fates)
        for update in again:
            self.begin(update)
        self._looked.set()
