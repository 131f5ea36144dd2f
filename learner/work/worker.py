"""The worker: takes work orders, makes updates and keeps the last one until its round is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from learner.memory import Memory
from learner.training.algorithms.streaming_diloco import check_streaming
from learner.training.update import CancelledError, Update
from learner.wire.connection import Connection
from learner.wire.pipeline import Steps
from learner.wire.streamed_update import StreamedUpdate
from learner.wire.transfer import Download, pull_model, pull_shard, push
from learner.wire.whole_update import HeldUpdate
from learner.work.prefetch import Ahead
from learner.work.workbench import Tools, Workbench
from model.image_classification import Shard
from model.task import Examples
from protos import leader_pb2
from utils import faults
from utils.errors import (
    ChecksumError,
    DuplicateUpdateError,
    FlockstepError,
    LateUpdateError,
    NotReadyError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    UnreachableError,
)
from utils.vector import Vector

_log = logging.getLogger(__name__)
_PROGRESS_EVERY_S = 0.5
_RESENDS = 3
_MOST_BREAKS = 5  # gradient streams that may end one after the other before one of their steps is over
#: What a new registration can mend.
_MENDABLE = (UnreachableError, StalledError, UnknownLearnerError, NotReadyError)


Report = Callable[[leader_pb2.Progress], None]


class Worker:
    """Does one work order after the other; survives reconnects with its data, model and last updates."""

    def __init__(self, tools: Tools, memory: Memory, network_addr: str, own: Examples | None) -> None:
        self._tools = tools
        self._memory = memory
        self._network_addr = network_addr
        self._own = own
        self._thread = ThreadPoolExecutor(1, "training")
        self._ahead = Ahead(self._thread)
        self._orders: asyncio.Queue[leader_pb2.WorkOrder | None] = asyncio.Queue()  # None: look at _refused
        self._wanted: dict[str, leader_pb2.WorkOrder] = {}  # by work id: queued or under way
        self._current: leader_pb2.WorkOrder | None = None
        self._unwanted = False  # the current order was cancelled, perhaps before its training began
        self._held: dict[str, HeldUpdate] = {}  # last update by part
        self._streamed: dict[str, StreamedUpdate] = {}  # the same, of those that go piece by piece
        self._steps: Steps | None = None  # of this connection
        self._breaks = 0  # since the last step that was over
        self._refused: FlockstepError | None = None  # what ended a gradient stream for good
        self._shards: dict[int, Shard] = {}
        self._run: leader_pb2.RunDescription | None = None
        self._bench: Workbench | None = None
        self._base: tuple[int, Download] | None = None  # version and what came for it
        self._connection: Connection | None = None
        self._broken: asyncio.Future[FlockstepError] | None = None  # of this connection
        self._last_sent = ""  # work id
        self.failed_work = ""  # work id of the order that `run` raised for
        self.report: Report = lambda progress: None

    def connect(self, connection: Connection) -> asyncio.Future[FlockstepError]:
        """Work for this registration from now on; raises ConfigError for a model that can't be built.

        The result is there once an order has failed over this connection: the leader sends the order
        again only to a learner that registers again.
        """
        self._connection = connection
        self._broken = broken = asyncio.get_running_loop().create_future()
        if self._run is None or self._run.run_id != connection.run.run_id:
            self._held.clear()
            self._streamed.clear()
            self._shards.clear()
            self._base = None
            self._ahead.clear()
            self._bench = self._make_bench(connection.run)
        self._run = connection.run
        self._steps = self._make_steps(connection, broken) if connection.run.pipelined else None
        return broken

    def _make_bench(self, run: leader_pb2.RunDescription) -> Workbench:
        return Workbench(run, self._tools, self._memory)

    def _make_steps(self, connection: Connection, broken: asyncio.Future[FlockstepError]) -> Steps:
        assert self._bench is not None

        def took(version: int, vector: Vector) -> None:
            self._base = (version, Download(vector))
            self._breaks = 0

        def failed(error: FlockstepError) -> None:
            self._breaks += 1
            if isinstance(error, (*_MENDABLE, ChecksumError)) and self._breaks < _MOST_BREAKS:
                _log.warning("gradient stream: %s; going on after the reconnect", error)
                if not broken.done():
                    broken.set_result(error)
            else:
                self._refused = error
                newest = max(self._streamed.values(), key=lambda update: update.place, default=None)
                self.failed_work = newest.order.work_id if newest else ""
                self._orders.put_nowait(None)

        return Steps(connection, self._bench.layout, self._memory, self._streamed, took, failed)

    def disconnect(self) -> None:
        """The session is gone: orders that were not begun will come again."""
        self._connection = self._broken = None
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        while not self._orders.empty():
            if (order := self._orders.get_nowait()) is not None:
                self._wanted.pop(order.work_id, None)
        if self._refused is not None:
            self._orders.put_nowait(None)

    def order(self, order: leader_pb2.WorkOrder) -> None:
        """Take a work order; one that is in hand already is not taken twice.

        Raises PayloadError for an order that says nothing that could be done.
        """
        if order.exchange not in ("gradient", "delta") or not (
            (order.local_steps or order.evaluate) and order.batch_size
        ):
            raise PayloadError(
                f"work order with exchange {order.exchange[:20]!r}, {order.local_steps} steps and batches of "
                f"{order.batch_size}; install the same release on both sides"
            )
        check_streaming(order)
        if order.work_id in self._wanted:
            return
        self._memory.committed(order.round - 1)
        if self._current is not None and _is_over(self._current, order):
            self._cancel()
        self._wanted[order.work_id] = order
        self._orders.put_nowait(order)

    def committed(self, round_: int) -> None:
        """Let go of updates whose round is on disk, and of work for it."""
        self._held = {part: held for part, held in self._held.items() if held.last_round > round_}
        for part in [part for part, update in self._streamed.items() if update.order.round <= round_]:
            del self._streamed[part]
        self._memory.committed(round_)
        self._ahead.committed(round_)
        if self._current is not None and last_round(self._current) <= round_:
            self._cancel()

    def _cancel(self) -> None:
        self._unwanted = True
        if self._bench is not None:
            self._bench.cancel()

    async def run(self) -> None:
        """Do the orders as they come, for ever; raises on an error that no reconnect can mend."""
        while True:
            order = await self._orders.get()
            if order is None:
                assert self._refused is not None
                raise self._refused
            self._current, self._unwanted = order, False
            try:
                await self._do(order)
            except (CancelledError, LateUpdateError, DuplicateUpdateError) as error:
                _log.info("round %d: %s", order.round, error)
            except _MENDABLE as error:
                _log.warning("round %d: %s; going on after the reconnect", order.round, error)
                if self._broken is not None and not self._broken.done():
                    self._broken.set_result(error)
            except Exception:
                self.failed_work = order.work_id
                raise
            finally:
                self._current = None
                self._wanted.pop(order.work_id, None)

    async def _do(self, order: leader_pb2.WorkOrder) -> None:
        part = f"shard-{order.shard:05d}" if order.HasField("shard") else "own"
        if self._steps is not None and self._steps.takes(order):
            await self._do_in_pieces(self._steps, order, part)
            return
        held = self._held.get(part)
        if held is None or held.work_id != order.work_id:
            held = await self._make(order, part)
        else:
            _log.info("round %d: sending the update again that was made before", order.round)
        again = held.work_id == self._last_sent
        try:
            await self._send(held)
        except DuplicateUpdateError:
            self._memory.counted(part)  # the answer to an earlier stream was lost
            raise
        except LateUpdateError:
            if not again:  # else an earlier stream of it may have come in time
                self._memory.refused(part)
            raise
        self._memory.counted(part)
        faults.reach("learner.uploaded", order.round)

    async def _do_in_pieces(self, steps: Steps, order: leader_pb2.WorkOrder, part: str) -> None:
        """Send the update while it is made; whether it counts is heard with the weights that it makes."""
        if steps.send_again(order, part):
            return
        if self._base is None or self._base[0] != order.version:
            await steps.over()  # what the order starts from may be on its way
        examples, base = await self._inputs(order)
        update, post = steps.begin(order, part, base.vector)
        loop, bench = asyncio.get_running_loop(), self._bench
        assert bench is not None
        progress = self._reporter(order.work_id, loop)
        made = await loop.run_in_executor(
            self._thread, bench.make_in_pieces, update, examples, post, progress
        )
        self._tell(order, part, made)

    async def _make(self, order: leader_pb2.WorkOrder, part: str) -> HeldUpdate:
        """Train, and keep the update."""
        update, held = await self._train(order, part)
        self._held[part] = held
        self._tell(order, part, update)
        return held

    def _tell(self, order: leader_pb2.WorkOrder, part: str, update: Update) -> None:
        """An update is made."""
        made = {"round": order.round, "step": order.step, "part": part, "work_id": order.work_id}
        _log.debug("update made", extra={"event": "UpdateMade", "fields": made})
        faults.reach("learner.trained", order.round)
        if not order.local_steps:
            _log.info("scored the model of round %d: %s", order.round - 1, _shown(update))
            return
        level = logging.DEBUG if order.exchange == "gradient" else logging.INFO
        text = "round %d: loss %.4f, %d steps, %.0f examples/s"
        _log.log(level, text, order.round, update.loss, order.local_steps, update.trained / update.seconds)

    async def _train(self, order: leader_pb2.WorkOrder, part: str) -> tuple[Update, HeldUpdate]:
        examples, base = await self._inputs(order)
        bench = self._bench
        assert bench is not None
        loop = asyncio.get_running_loop()
        progress = self._reporter(order.work_id, loop)
        begun = self._ahead.take(order, part)

        def make() -> tuple[Update, HeldUpdate]:
            head = begun()
            if self._unwanted:
                raise CancelledError(f"round {order.round} is over")
            return bench.make(order, base, examples, part, progress, head)

        update, held = await loop.run_in_executor(self._thread, make)
        self._current = None  # nothing is left of it to cancel, and what is begun now is not its own
        if self._orders.empty():
            self._ahead.begin(bench, order, examples, part, update)
        return update, held

    async def _inputs(self, order: leader_pb2.WorkOrder) -> tuple[Examples, Download]:
        """Examples and model of an order, fetched where they are not here; raises CancelledError if it is over."""
        connection, bench = self._connected(), self._bench
        assert bench is not None
        examples = await self._examples(connection, order)
        if self._base is None or self._base[0] != order.version:
            pulled = await pull_model(
                connection.stub, connection.token, order, bench.layout, self._base, bench.changes(order)
            )
            self._base = (order.version, pulled)
        if self._unwanted:
            raise CancelledError(f"round {order.round} is over")
        return examples, self._base[1]

    async def _examples(self, connection: Connection, order: leader_pb2.WorkOrder) -> Examples:
        if not order.HasField("shard"):
            if self._own is None:
                raise LateUpdateError("the order is for own data, but this learner has none")
            return self._own
        if order.shard not in self._shards:
            classes = connection.run.classes
            shard = await pull_shard(
                connection.stub, connection.token, order.shard, self._network_addr, classes
            )
            _log.info("received shard %d: %d examples", order.shard, len(shard))
            self._shards[order.shard] = shard
        return self._shards[order.shard]

    async def _send(self, held: HeldUpdate) -> None:
        for attempt in range(_RESENDS):
            connection = self._connected()
            resume = attempt == 0 and held.work_id == self._last_sent
            self._last_sent = held.work_id
            try:
                await push(connection.stub, connection.token, held, connection.run.chunk_bytes, resume=resume)
                return
            except ChecksumError as error:
                _log.warning("update was damaged on its way (try %d of %d): %s", attempt + 1, _RESENDS, error)
        raise FlockstepError(f"the update arrived damaged {_RESENDS} times; check the network to the leader")

    def _connected(self) -> Connection:
        if self._connection is None:
            raise UnreachableError("the leader is not connected")
        return self._connection

    def _reporter(self, work_id: str, loop: asyncio.AbstractEventLoop) -> Callable[[int, int, float], None]:
        last = time.monotonic()

        def progress(done: int, total: int, rate: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_EVERY_S:
                last = time.monotonic()
                message = leader_pb2.Progress(work_id=work_id, done=done, total=total, images_per_s=rate)
                loop.call_soon_threadsafe(self.report, message)

        return progress

    async def close(self) -> None:
        """Stop the order that runs now and wait for its thread."""
        self._ahead.clear()
        self._cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)


def _shown(update: Update) -> str:
    return ", ".join(f"{name} {score.value:.4f}" for name, score in update.scores.items())


def last_round(order: leader_pb2.WorkOrder) -> int:
    """The round whose commit ends the order."""
    return order.last_round or order.round


def _is_over(current: leader_pb2.WorkOrder, newer: leader_pb2.WorkOrder) -> bool:
    """Whether an order that comes now tells that the one under way is no longer wanted."""
    if current.last_round:
        return current.last_round < newer.round
    return (current.round, current.step) < (newer.round, newer.step)
