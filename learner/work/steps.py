"""Gradient orders of a pipelined run: each is answered piece by piece, over one stream for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from learner.memory import Memory
from learner.wire.connection import Connection
from learner.wire.gradient_stream import GradientStream
from learner.wire.streamed_update import SentPiece, StreamedUpdate
from learner.work.order_book import OrderBook
from model.layout import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils import faults
from utils.codecs import make_codec
from utils.errors import FlockstepError
from utils.vector import Vector

_log = logging.getLogger(__name__)


class Steps:
    """What one registration answers piece by piece; raises IncompatibleError for a codec that is not known.

    `book` holds the last update of each part, from earlier registrations too. `took` is told of new weights,
    (total,), and their version; `failed` of what ended a stream before its time.
    """

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        memory: Memory,
        book: OrderBook,
        took: Callable[[int, Vector], None],
        failed: Callable[[FlockstepError], None],
    ) -> None:
        run = connection.run
        self._connection = connection
        codec = make_codec(run.codec_down) if run.codec_down else None
        self._files = PieceFiles(layout, run.piece_bytes, codec, cut_tensors=run.cut_tensors)
        self._memory = memory
        self._book = book
        self._took = took
        self._failed = failed
        self._stream: GradientStream | None = None
        self._running: set[asyncio.Task[None]] = set()

    @staticmethod
    def takes(order: leader_pb2.WorkOrder) -> bool:
        """Whether an order is answered piece by piece; one for scores alone is not."""
        return order.exchange == "gradient" and order.local_steps > 0

    def send_again(self, order: leader_pb2.WorkOrder) -> bool:
        """Send the update that was made for this very order, unless it is on its way; False if there is none."""
        held = self._book.held(order, StreamedUpdate)
        if held is None or not held.complete:
            return False
        if self._stream is None or not self._stream.sends(order.work_id):
            _log.info("round %d: sending the update again that was made before", order.round)
            held.counted = None
            held.stage(self._memory)
            self._open().begin(held)
        else:
            self._stream.ask_again(order.work_id)
        return True

    async def over(self) -> None:
        """Wait for the weights of the exchange that this learner has sent its update for."""
        if self._stream is not None:
            await self._stream.over()

    def begin(
        self, order: leader_pb2.WorkOrder, part: str, base: Vector
    ) -> tuple[StreamedUpdate, Callable[[SentPiece | None], None]]:
        """An update that is to be made for `order`, and what to call with its pieces, see PieceMaker."""
        update = StreamedUpdate(order, part, base, len(self._files.pieces))
        self._book.hold(order, update)
        loop, stream = asyncio.get_running_loop(), self._open()

        def take(piece: SentPiece | None) -> None:
            if piece is None:
                stream.begin(update)
                return
            update.pieces.append(piece)
            stream.made(update, piece)
            if update.counted is not None:  # the exchange was over before the update was made
                update.settle(self._memory, counted=update.counted)

        return update, lambda piece: _post(loop, take, piece)

    def _open(self) -> GradientStream:
        """The stream, opened where there is none."""
        if self._stream is None or self._stream.ended:
            self._stream = GradientStream(
                self._connection.stub, self._connection.token, self._files, self._settled
            )
            running = asyncio.ensure_future(self._run(self._stream))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
        return self._stream

    async def _run(self, stream: GradientStream) -> None:
        try:
            await stream.run()
        except FlockstepError as error:
            self._failed(error)

    def _settled(self, got: tuple[int, Vector] | None, updates: list[tuple[StreamedUpdate, bool]]) -> None:
        if got is not None:
            self._took(*got)
        for update, counted in updates:
            update.settle(self._memory, counted=counted)
            if counted:
                faults.reach("learner.uploaded", update.order.round)

    def close(self) -> None:
        """End the stream; what it has not settled is sent again if its order comes again."""
        for running in self._running:
            running.cancel()


def _post(
    loop: asyncio.AbstractEventLoop, take: Callable[[SentPiece | None], None], piece: SentPiece | None
) -> None:
    try:
        loop.call_soon_threadsafe(take, piece)
    except RuntimeError:
        _log.debug("the program ends: a piece was made too late")
