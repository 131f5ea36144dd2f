"""The worker: takes work orders, makes updates and keeps the last one until its round is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from learner.options import LearnerOptions
from learner.task import ImageClassification, Shard
from learner.trainer import CancelledError, Trainer, Update
from learner.transfer import HeldUpdate, pull_model, pull_shard, push
from model.flat import FlatModel
from model.registry import build_model
from protos import leader_pb2
from utils import faults
from utils.errors import (
    ChecksumError,
    DuplicateUpdateError,
    FlockstepError,
    LateUpdateError,
    PayloadError,
    StalledError,
    UnknownLearnerError,
    UnreachableError,
)
from utils.rpc import LeaderStub

_log = logging.getLogger(__name__)
_PROGRESS_EVERY_S = 0.5
_RESENDS = 3


@dataclass(frozen=True)
class Connection:
    """One registration with the leader."""

    stub: LeaderStub
    token: bytes
    learner_id: int
    run: leader_pb2.RunDescription


Report = Callable[[leader_pb2.Progress], None]


class Worker:
    """Does one work order after the other; survives reconnects with its data, model and last updates."""

    def __init__(self, options: LearnerOptions, device: torch.device, own: Shard | None) -> None:
        self._options = options
        self._device = device
        self._own = own
        self._thread = ThreadPoolExecutor(1, "training")
        self._orders: asyncio.Queue[leader_pb2.WorkOrder] = asyncio.Queue()
        self._wanted: dict[str, leader_pb2.WorkOrder] = {}  # by work id: queued or under way
        self._current: leader_pb2.WorkOrder | None = None
        self._unwanted = False  # the current order was cancelled, perhaps before its training began
        self._held: dict[int, HeldUpdate] = {}  # last update by shard, -1 for own data
        self._shards: dict[int, Shard] = {}
        self._run: leader_pb2.RunDescription | None = None
        self._trainer: Trainer | None = None
        self._base: tuple[int, NDArray[np.float32]] | None = None  # version and weights
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
            self._shards.clear()
            self._base = None
            self._trainer = self._make_trainer(connection.run)
        self._run = connection.run
        return broken

    def _make_trainer(self, run: leader_pb2.RunDescription) -> Trainer:
        module = build_model(run.model, classes=run.classes, norm=run.norm)
        return Trainer(FlatModel(module, self._device), compile_model=self._options.compile)

    def disconnect(self) -> None:
        """The session is gone: orders that were not begun will come again."""
        self._connection = self._broken = None
        while not self._orders.empty():
            self._wanted.pop(self._orders.get_nowait().work_id, None)

    def order(self, order: leader_pb2.WorkOrder) -> None:
        """Take a work order; one that is in hand already is not taken twice.

        Raises PayloadError for an order that says nothing that could be done.
        """
        if order.exchange not in ("gradient", "delta") or not (order.local_steps and order.batch_size):
            raise PayloadError(
                f"work order with exchange {order.exchange[:20]!r}, {order.local_steps} steps and batches of "
                f"{order.batch_size}; install the same release on both sides"
            )
        if order.work_id in self._wanted:
            return
        if self._current is not None and (self._current.round, self._current.step) < (
            order.round,
            order.step,
        ):
            self._cancel()
        self._wanted[order.work_id] = order
        self._orders.put_nowait(order)

    def committed(self, round_: int) -> None:
        """Let go of updates whose round is on disk, and of work for it."""
        self._held = {key: held for key, held in self._held.items() if held.round > round_}
        if self._current is not None and self._current.round <= round_:
            self._cancel()

    def _cancel(self) -> None:
        self._unwanted = True
        if self._trainer is not None:
            self._trainer.cancel()

    async def run(self) -> None:
        """Do the orders as they come, for ever; raises on an error that no reconnect can mend."""
        while True:
            order = await self._orders.get()
            self._current, self._unwanted = order, False
            try:
                await self._do(order)
            except (CancelledError, LateUpdateError, DuplicateUpdateError) as error:
                _log.info("round %d: %s", order.round, error)
            except (UnreachableError, StalledError, UnknownLearnerError) as error:
                _log.warning("round %d: %s; going on after the reconnect", order.round, error)
                if self._broken is not None and not self._broken.done():
                    self._broken.set_result(error)
            except FlockstepError:
                self.failed_work = order.work_id
                raise
            finally:
                self._current = None
                self._wanted.pop(order.work_id, None)

    async def _do(self, order: leader_pb2.WorkOrder) -> None:
        key = order.shard if order.HasField("shard") else -1
        held = self._held.get(key)
        if held is None or held.work_id != order.work_id:
            update = await self._train(order)
            assert self._trainer is not None
            held = HeldUpdate.of(order, update, self._trainer.model.layout)
            self._held[key] = held
            made = {"round": order.round, "step": order.step, "shard": key, "work_id": order.work_id}
            _log.debug("update made", extra={"event": "UpdateMade", "fields": made})
            faults.reach("learner.trained", order.round)
            level = logging.DEBUG if order.exchange == "gradient" else logging.INFO
            text = "round %d: loss %.4f, %d steps, %.0f images/s"
            _log.log(
                level, text, order.round, update.loss, order.local_steps, update.trained / update.seconds
            )
        else:
            _log.info("round %d: sending the update again that was made before", order.round)
        await self._send(held)
        faults.reach("learner.uploaded", order.round)

    async def _train(self, order: leader_pb2.WorkOrder) -> Update:
        connection = self._connected()
        trainer = self._trainer
        assert trainer is not None
        shard = await self._shard(connection, order)
        if self._base is None or self._base[0] != order.version:
            layout = trainer.model.layout
            vector = await pull_model(connection.stub, connection.token, order, layout)
            self._base = (order.version, vector)
        task = ImageClassification(shard, order, self._device, channels_last=self._options.channels_last)
        if self._unwanted:
            raise CancelledError(f"round {order.round} is over")
        loop = asyncio.get_running_loop()
        progress = self._reporter(order.work_id, loop)
        return await loop.run_in_executor(
            self._thread, trainer.run, order, self._base[1], task, len(shard), progress
        )

    async def _shard(self, connection: Connection, order: leader_pb2.WorkOrder) -> Shard:
        if not order.HasField("shard"):
            if self._own is None:
                raise LateUpdateError("the order is for own data, but this learner has none")
            return self._own
        if order.shard not in self._shards:
            address, classes = self._options.network_addr, connection.run.classes
            shard = await pull_shard(connection.stub, connection.token, order.shard, address, classes)
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
        self._cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
