"""The leader program: wiring, start, drain, stop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from leader.checkpoint import checkpoints, load_newest, save_checkpoint, write_atomically
from leader.cli import Command
from leader.config import RunConfig
from leader.config_file import dump_config
from leader.coordinator import Coordinator
from leader.curves import curves_title, draw_curves
from leader.evaluation import EvaluationQueue, Evaluator
from leader.events import Event, EventStream, RoundCommitted, RunFinished, RunStarted
from leader.log import open_display
from leader.optimizers.base import ServerOptimizer
from leader.optimizers.fedavg import FedAvg
from leader.optimizers.sgd import Sgd
from leader.refusals import Refusals
from leader.run_folder import MetricsLog, RunFolder, default_run_dir
from leader.service import LeaderService
from leader.state import RunState
from leader.summary import summarize, write_summary
from leader.uploads import Uploads
from leader.versions import model_header
from leader.workforce import Workforce
from model.flat import FlatModel
from model.precision import choose_device
from model.registry import build_model
from protos import leader_pb2
from utils import faults
from utils.datasets import Dataset, open_dataset
from utils.errors import CheckpointError, ConfigError, FlockstepError
from utils.rpc import SERVICE, server_options

_log = logging.getLogger(__name__)
_GRACE_S = 2.0
_ASLEEP_S = 1.0  # a timer this late means that the process was stopped
_STOPPED = 130  # the shell's exit code for a program that was interrupted


@dataclass(frozen=True)
class Data:
    """What the leader holds."""

    name: str
    train: Dataset | None  # None where learners bring their own
    test: Dataset | None
    classes: int


def open_data(config: RunConfig) -> Data:
    """The run's data set, cut to the configured number of examples; raises DataError."""
    wanted = config.data
    if wanted.source == "none":
        return Data("the learners' own data", None, None, config.model.classes)
    split = open_dataset(wanted.source, wanted.dir)
    test = split.test.take(wanted.test_examples) if split.test else None
    train = split.train.take(wanted.train_examples) if wanted.holder == "leader" else None
    return Data(split.train.name, train, test, len(split.train.classes))


def make_optimizer(config: RunConfig) -> ServerOptimizer:
    """The server optimizer that the exchange calls for."""
    train = config.train
    if config.exchange == "gradient":
        return Sgd(train.momentum, train.weight_decay, train.nesterov)
    return FedAvg()


def initial_state(config: RunConfig, model: FlatModel, optimizer: ServerOptimizer) -> RunState:
    """Round 0 of a new run: seeded weights."""
    vector = model.snapshot().cpu().numpy()
    return RunState(
        run_id=f"{config.model.name}-{secrets.token_hex(4)}",
        round=0,
        exchanges=0,
        version=int.from_bytes(hashlib.sha256(vector.tobytes()).digest()[:8]) >> 1,
        vector=vector,
        optimizer=optimizer.init(model.layout.parameter_count),
    )


def resumed_state(folder: RunFolder, model: FlatModel) -> RunState:
    """The newest whole checkpoint; raises CheckpointError if there is none that fits the model."""
    state = load_newest(folder.checkpoints)
    if state.vector.size != model.layout.total:
        raise CheckpointError(
            f"checkpoint holds {state.vector.size} values, the model has {model.layout.total}; "
            "was config.yaml of the run folder changed?"
        )
    return state


def expects_evaluation(config: RunConfig, test: Dataset | None, round_: int) -> bool:
    """Whether the model of this round is to be evaluated; that of the last round always is."""
    every = config.evaluation.every
    return test is not None and (round_ == config.rounds or (every > 0 and round_ % every == 0))


class App:
    """One run of the leader, with everything wired up."""

    def __init__(self, config: RunConfig, folder: RunFolder, data: Data, *, resume: bool) -> None:
        self._config = config
        self._folder = folder
        self._data = data
        module = build_model(
            config.model.name, classes=data.classes, norm=config.model.norm, seed=config.seed
        )
        model = FlatModel(module, choose_device("auto"))
        optimizer = make_optimizer(config)
        state = resumed_state(folder, model) if resume else initial_state(config, model, optimizer)
        self.resumed_round = state.round
        self.events = EventStream()
        self._layout = model.layout
        workforce = Workforce(
            config,
            classes=data.classes,
            labels=data.train.labels if data.train else None,
            seats=state.seats,
            events=self.events,
        )
        self.coordinator = Coordinator(
            config,
            state,
            layout=model.layout,
            optimizer=optimizer,
            workforce=workforce,
            save=partial(
                save_checkpoint, folder.checkpoints, keep=config.keep_checkpoints, config=dump_config(config)
            ),
            events=self.events,
        )
        self._metrics = MetricsLog(folder, state.round, expects_evaluation=self._expects_evaluation)
        self.refusals = Refusals(self.events)
        self._evaluations = (
            EvaluationQueue(Evaluator(model, data.test, config), self.events) if data.test else None
        )
        self.events.subscribe(self._metrics.on_event)
        self.events.subscribe(self._offer_evaluation)
        if state.committed is not None:
            # A crash right after the checkpoint may have lost this round's line and its evaluation.
            self._metrics.on_event(state.committed)
        self.service = LeaderService(
            config,
            leader_pb2.RunDescription(
                run_id=state.run_id,
                model=config.model.name,
                norm=config.model.norm,
                classes=data.classes,
                heartbeat_s=config.cohort.lease_s / 2,
                chunk_bytes=config.limits.chunk_bytes,
            ),
            self.coordinator,
            Uploads(
                model.layout,
                config.limits,
                self.coordinator.traffic,
                self.coordinator.is_open,
                lambda: faults.reach("leader.uploading", self.coordinator.state.round + 1),
            ),
            data.train,
            self.events,
            self.refusals,
        )

    def _expects_evaluation(self, round_: int) -> bool:
        return expects_evaluation(self._config, self._data.test, round_)

    def _offer_evaluation(self, event: Event) -> None:
        if isinstance(event, RoundCommitted) and self._evaluations and self._expects_evaluation(event.round):
            self._evaluations.offer(event.round, self.coordinator.state.vector)

    def started(self, address: str) -> RunStarted:
        """What to tell about this run when it begins."""
        return RunStarted(
            run_id=self.coordinator.state.run_id,
            run_dir=self._folder.path,
            dataset=self._data.name,
            model=self._config.model.name,
            parameters=self._layout.parameter_count,
            exchange=self._config.exchange,
            rounds=self._config.rounds,
            address=address,
            learners=self._config.learners,
            resumed_round=self.resumed_round,
            own_data=self._data.train is None,
        )

    async def run(self) -> str:
        """Train to the end; returns why it ended early, or ""."""
        leases = asyncio.ensure_future(self._watch_leases())
        if self.coordinator.state.committed is not None:
            self._offer_evaluation(self.coordinator.state.committed)
        try:
            return await self.coordinator.run()
        finally:
            leases.cancel()

    async def _watch_leases(self) -> None:
        workforce = self.coordinator.workforce
        while True:
            due = workforce.members.next_expiry()
            now = time.monotonic()
            wait_s = self._config.cohort.lease_s if due is None else max(0.0, due - now)
            await asyncio.sleep(wait_s)
            if time.monotonic() > now + wait_s + _ASLEEP_S:
                workforce.renew()  # it was this process that slept, and heard nobody
            else:
                workforce.expire()

    async def conclude(self, started: RunStarted, began: float, reason: str) -> RunFinished:
        """Send the learners home and write the results; raises CheckpointError, such as for a full disk."""
        finished = RunFinished(self.coordinator.state.round, time.monotonic() - began, reason)
        await self._dismiss(reason)
        try:
            await self._finish(started, finished)
        except OSError as error:
            raise CheckpointError(
                f"can't write the results to {self._folder.path}: {error.strerror}; "
                "free the disk or fix the folder, then resume the run"
            ) from error
        return finished

    async def _dismiss(self, reason: str) -> None:
        """Tell every learner that the run is over, and wait a moment for them to go."""
        members = list(self.coordinator.workforce.members)
        for member in members:
            member.link.stop(reason or "all rounds are done", finished=not reason)
        await asyncio.gather(*(member.link.close() for member in members))

    async def _finish(self, started: RunStarted, finished: RunFinished) -> None:
        """Write what the run leaves behind: model, metrics, curves, summary."""
        if self._evaluations:
            await self._evaluations.finish()
        self._metrics.close()
        vector = self.coordinator.state.vector
        header = model_header(self._layout, {"format": "pt", "model": self._config.model.name})
        write_atomically(self._folder.model, [header, vector.data.cast("B")])
        records = self._metrics.records
        digest = hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
        write_summary(
            self._folder.summary, summarize(records, started, finished, digest, self.refusals.counts)
        )
        if records:
            draw_curves(records, self._folder.curves, curves_title(started))


@asynccontextmanager
async def serving(config: RunConfig, service: LeaderService) -> AsyncIterator[str]:
    """The gRPC server with health checking and reflection; gives the address it listens on.

    Raises ConfigError if the port is taken or the address is not this machine's.
    """
    listen, limits = config.listen, config.limits
    # Every learner holds one session and makes a call or two beside it; the rest is abuse.
    server = aio.server(
        options=server_options(limits.message_bytes, limits.metadata_bytes),
        maximum_concurrent_rpcs=4 * limits.max_learners + 64,
    )
    server.add_generic_rpc_handlers((service.handler(),))
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError:
        raise ConfigError(
            f"can't listen on {listen}: the port is taken or the address is not this machine's; "
            "choose another with --listen HOST:PORT"
        ) from None
    await server.start()
    for name in ("", SERVICE):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"{listen.rpartition(':')[0]}:{port}"
    finally:
        await status.enter_graceful_shutdown()
        await server.stop(_GRACE_S)


async def lead(config: RunConfig, folder: RunFolder, data: Data, *, resume: bool) -> str:
    """Serve and train one run; returns why it ended early, or ""."""
    display = open_display(config.log, config.rounds, sys.stderr)
    try:
        app = App(config, folder, data, resume=resume)
        app.events.subscribe(display.on_event)
        async with serving(config, app.service) as address:
            started = app.started(address)
            app.events.publish(started)
            write_atomically(folder.path / "address", [address.encode()])
            _stop_on_signals(app.coordinator)
            began = time.monotonic()
            try:
                reason = await app.run()
            except BaseException:
                with suppress(CheckpointError):  # what ended the run is told, not what that led to
                    await app.conclude(started, began, "it failed; see the error")
                raise
            app.events.publish(await app.conclude(started, began, reason))
        return reason
    finally:
        display.close()


def _stop_on_signals(coordinator: Coordinator) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, coordinator.stop, f"stopped by {signal.Signals(number).name}")


def run(command: Command) -> int:
    """Lead the run that `command` describes; returns the exit code."""
    config, resume = command.config, command.resume is not None
    data = open_data(config)
    if resume:
        assert command.resume is not None
        folder = RunFolder.reopen(command.resume)
        # What was changed for this resume, such as more rounds, holds for the next one too.
        write_atomically(folder.config, [dump_config(config).encode()])
    else:
        path = config.run_dir or default_run_dir(config.model.name, datetime.now())
        config = config.model_copy(update={"run_dir": path})
        folder = RunFolder.create(path, dump_config(config))
    try:
        reason = asyncio.run(lead(config, folder, data, resume=resume))
    except FlockstepError as error:
        if not resume and not checkpoints(folder.checkpoints):
            folder.discard()  # nothing began, so the same command can be given again
            raise
        raise type(error)(f"{error}\n{_how_to_resume(folder.path)}") from error
    print(
        f"{reason}\n{_how_to_resume(folder.path)}" if reason else f"results are in {folder.path}",
        file=sys.stderr,
    )
    return _STOPPED if reason else 0


def _how_to_resume(path: Path) -> str:
    return f"resume with: python -m leader --resume {path}"
