"""The worker: takes work orders, makes updates and keeps the last one until its round is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from learner.memory import Memory
from learner.secagg.member import Floors
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from learner.training.algorithms.streaming_diloco import check_streaming
from learner.training.update import CancelledError, Update
from learner.wire.connection import MENDABLE, Connection, Endpoint
from learner.wire.edges import Edges, check_via
from learner.wire.transfer import Download, push
from learner.wire.whole_update import HeldUpdate, WholeUpdate
from learner.work.inputs import Inputs
from learner.work.order_book import Fate, OrderBook, part_of
from learner.work.prefetch import Ahead
from learner.work.steps import Steps
from learner.work.workbench import Tools, Workbench
from model.task import Examples
from protos import leader_pb2
from utils import faults
from utils.ecs import PLACE
from utils.errors import (
    BusyError,
    ChecksumError,
    DuplicateUpdateError,
    FlockstepError,
    LateUpdateError,
    PayloadError,
    UnreachableError,
    WireError,
)
from utils.vector import Vector

_log = logging.getLogger(__name__)
_PROGRESS_EVERY_S = 0.5
_RESENDS = 3
_MOST_BREAKS = 5  # gradient streams that may end one after the other before one of their steps is over


Report = Callable[[leader_pb2.Progress], None]


def unheard(progress: leader_pb2.Progress) -> None:
    """Nobody asks how an order goes."""


class Worker:
    """Does one work order after the other; survives reconnects with its data, model and last updates."""

    def __init__(
        self,
        tools: Tools,
        memory: Memory,
        network_addr: str,
        edges: Edges,
        own: Examples | None,
        masks: MaskSessions | None = None,
    ) -> None:
        self._tools, self._memory = tools, memory
        self._edges = edges
        self.masks = masks or MaskSessions(Vows(None), Floors(), 0)
        self._thread = ThreadPoolExecutor(1, "training")
        self._ahead = Ahead(self._thread)
        self._book = OrderBook()
        self._woken = asyncio.Event()  # an order came, or a stream ended for good
        self._steps: Steps | None = None  # of this connection
        self._breaks = 0  # since the last step that was over
        self._refused: FlockstepError | None = None  # what ended a gradient stream for good, or an order
        self._inputs = Inputs(network_addr, own, edges, self._connected, self._book.latest)
        self._run: leader_pb2.RunDescription | None = None
        self._bench: Workbench | None = None
        self._connection: Connection | None = None
        self._broken: asyncio.Future[FlockstepError] | None = None  # of this connection
        self.failed_work = ""  # work id of the order that `run` raised for
        self._report: Report = unheard

    def connect(self, connection: Connection, report: Report = unheard) -> asyncio.Future[FlockstepError]:
        """Work for this registration from now on, and `report` how orders go.

        Raises ConfigError for a model that can't be built, PayloadError for a run that promises too little.

        The result is there once an order has failed over this connection: the leader sends the order
        again only to a learner that registers again.
        """
        self._tools.floor.registered(connection.run)
        self._connection, self._report = connection, report
        self.masks.registered(connection.name, connection.run.run_id, connection.run.holdout)
        self._edges.registered(connection.name)
        self._broken = broken = asyncio.get_running_loop().create_future()
        if self._run is None or self._run.run_id != connection.run.run_id:
            self._book.cleared()
            self._inputs.clear()
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
            self._inputs.took(version, vector)
            self._breaks = 0

        def failed(error: FlockstepError) -> None:
            self._breaks += 1
            if isinstance(error, (*MENDABLE, ChecksumError, BusyError)) and self._breaks < _MOST_BREAKS:
                _log.warning("gradient stream: %s; going on after the reconnect", error)
                if not broken.done():
                    broken.set_result(error)
            else:
                newest = self._book.newest()
                self.refuse(newest.work_id if newest else "", error)

        return Steps(connection, self._bench.layout, self._memory, self._book, took, failed)

    def disconnect(self) -> None:
        """The session is gone: orders that were not begun will come again."""
        self._connection = self._broken = None
        self._report = unheard
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self._book.disconnected()

    def order(self, order: leader_pb2.WorkOrder, model: bytes = b"") -> leader_pb2.MaskUp | None:
        """Take a work order; one that is in hand already is not taken twice. What it says where masks are agreed on.

        `model` is the file of its model version, where that came with it.

        Raises PayloadError for an order that says nothing that could be done.
        """
        _check_kind(order)
        check_streaming(order)
        check_via(order.via)
        if self._tools.privacy is not None:
            self._tools.privacy.check(order)
        self._tools.floor.check(order)
        answer = self.masks.ordered(order)
        if model:
            self._inputs.came(order.version, model)
        if self._book.ordered(order):
            self._cancel()
        self._memory.committed(order.round - 1)
        self._woken.set()
        return answer

    def refuse(self, work_id: str, error: FlockstepError) -> None:
        """Work that this learner must not do: `run` raises that once it has done what is in hand."""
        self._refused, self.failed_work = error, work_id
        self._woken.set()

    def committed(self, round_: int) -> None:
        """Let go of updates whose round is on disk, and of work for it."""
        if self._book.committed(round_):
            self._cancel()
        self._memory.committed(round_)
        self.masks.committed(round_)
        self._ahead.committed(round_)

    def _cancel(self) -> None:
        if self._bench is not None:
            self._bench.cancel()

    async def run(self) -> None:
        """Do the orders as they come, for ever; raises on an error that no reconnect can mend."""
        while True:
            order, refused = await self._next(), False
            PLACE.round = order.round
            try:
                await self._do_when_let(order)
            except (CancelledError, LateUpdateError, DuplicateUpdateError) as error:
                _log.info("round %d: %s", order.round, error)
                refused = not isinstance(error, CancelledError)
            except MENDABLE as error:
                _log.warning("round %d: %s; this connection ends", order.round, error)
                if self._broken is not None and not self._broken.done():
                    self._broken.set_result(error)
            except Exception:
                self.failed_work = order.work_id
                raise
            finally:
                self._book.finished(order, refused=refused)

    async def _next(self) -> leader_pb2.WorkOrder:
        """The next order, awaited if need be; raises what ended a stream for good once all orders are done."""
        while (order := self._book.next()) is None:
            if self._refused is not None:
                raise self._refused
            self._woken.clear()
            await self._woken.wait()
        return order

    async def _do_when_let(self, order: leader_pb2.WorkOrder) -> None:
        """Do an order, and go on with it as often as the leader asks for a pause."""
        while True:
            try:
                return await self._do(order)
            except BusyError as error:
                _log.debug("round %d: %s", order.round, error)
                await asyncio.sleep(error.retry_after_s)

    async def _do(self, order: leader_pb2.WorkOrder) -> None:
        part = part_of(order)
        if self._steps is not None and self._steps.takes(order):
            await self._do_in_pieces(self._steps, order, part)
            return
        held = self._book.held(order, WholeUpdate)
        if held is None:
            held = await self._make(order, part)
        else:
            _log.info("round %d: sending the update again that was made before", order.round)
        sent = await held.travelling(self.masks)
        self._connected()  # else no stream of it has begun
        latest, again = self._book.latest(order), False

        async def send(to: Endpoint) -> None:
            nonlocal again
            again = self._book.sending(latest)
            await self._send(to, sent, resume=again)

        try:
            await self._edges.ask(latest.via, self._inputs.leader, send)
        except WireError as refusal:
            late = isinstance(refusal, LateUpdateError)
            if late and await self.masks.again(order.work_id, sent.said.session):
                await self._do(order)
                return
            self._settle(part, self._book.fate(refusal, again=again))
            raise
        self._settle(part, self._book.fate(None, again=again))
        faults.reach("learner.uploaded", order.round)

    def _settle(self, part: str, fate: Fate) -> None:
        """What was staged with an update holds, or is void."""
        if fate is Fate.COUNTED:
            self._memory.counted(part)
        elif fate is Fate.REFUSED:  # what the part was to remember with it is gone
            self._memory.refused(part)
            self._book.let_go(part)

    async def _do_in_pieces(self, steps: Steps, order: leader_pb2.WorkOrder, part: str) -> None:
        """Send the update while it is made; whether it counts is heard with the weights that it makes."""
        if steps.send_again(order):
            return
        if not self._inputs.has(order.version):
            await steps.over()  # what the order starts from may be on its way
        examples, base = await self._inputs_of(order)
        update, post = steps.begin(order, part, base.vector)
        loop, bench = asyncio.get_running_loop(), self._bench
        assert bench is not None
        progress = self._reporter(order.work_id, loop)

        def make() -> Update:
            _expect(order, self._book, bench)
            return bench.make_in_pieces(update, examples, post, progress)

        self._tell(order, part, await loop.run_in_executor(self._thread, make))

    async def _make(self, order: leader_pb2.WorkOrder, part: str) -> WholeUpdate:
        """Train, and keep the update."""
        update, held = await self._train(order, part)
        self._book.hold(order, held)
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

    async def _train(self, order: leader_pb2.WorkOrder, part: str) -> tuple[Update, WholeUpdate]:
        examples, base = await self._inputs_of(order)
        bench = self._bench
        assert bench is not None
        loop = asyncio.get_running_loop()
        progress = self._reporter(order.work_id, loop)
        begun = self._ahead.take(order, part)

        def make() -> tuple[Update, WholeUpdate]:
            head = begun()
            _expect(order, self._book, bench)
            return bench.make(order, base, examples, part, progress, head)

        update, held = await loop.run_in_executor(self._thread, make)
        self._book.made()  # what is begun now is not its own
        if self._book.idle:
            self._ahead.begin(bench, order, examples, part, update)
        return update, held

    async def _inputs_of(self, order: leader_pb2.WorkOrder) -> tuple[Examples, Download]:
        """Raises CancelledError if the order is over."""
        assert self._bench is not None
        inputs = await self._inputs.of(order, self._bench)
        _check_wanted(order, self._book)
        return inputs

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        """Upload an update; with `resume` only what has not come of it yet."""
        assert self._run is not None
        for attempt in range(_RESENDS):
            try:
                await push(to, held, self._run.chunk_bytes, resume=resume and attempt == 0)
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
                loop.call_soon_threadsafe(self._report, message)

        return progress

    async def close(self) -> None:
        """Stop the order that runs now and wait for its thread."""
        self._ahead.clear()
        if self._book.closed():
            self._cancel()
        await self._edges.close()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)


def _expect(order: leader_pb2.WorkOrder, book: OrderBook, bench: Workbench) -> None:
    """Before an order's training, in its thread; raises CancelledError if the order is over."""
    bench.expect()  # first: what ends the order after the look at it ends its training
    _check_wanted(order, book)


def _check_wanted(order: leader_pb2.WorkOrder, book: OrderBook) -> None:
    if book.unwanted:
        raise CancelledError(f"round {order.round} is over")


def _shown(update: Update) -> str:
    return ", ".join(f"{name} {score.value:.4f}" for name, score in update.scores.items())


def _check_kind(order: leader_pb2.WorkOrder) -> None:
    """Raise PayloadError for an order that says nothing that could be done."""
    if order.exchange not in ("gradient", "delta") or not (
        (order.local_steps or order.evaluate) and order.batch_size
    ):
        raise PayloadError(
            f"work order with exchange {order.exchange[:20]!r}, {order.local_steps} steps and batches of "
            f"{order.batch_size}; install the same release on both sides"
        )
