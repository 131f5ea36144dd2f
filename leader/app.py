"""The leader program: wiring, start, drain, stop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from leader.aggregation.decoding import Decoder
from leader.cli import Command
from leader.config import RunConfig
from leader.config.yaml_file import dump_config
from leader.data.dataset import Data, open_data
from leader.evaluation.best_model import BestModel
from leader.evaluation.evaluator import EvaluationQueue, Evaluator
from leader.evaluation.tracker import Verdict, awaited_evaluations, expects_evaluation
from leader.events import Event, EventStream, FederatedEvaluated, RoundCommitted, RunFinished, RunStarted
from leader.global_model.initial import model_title, open_origin
from leader.initial_state import initial_state, resumed_state, weights_before
from leader.learners.workforce import Workforce
from leader.metric_names import FEDERATED_PREFIX, on_test_split
from leader.optimizers.choose import make_optimizer
from leader.reporting.curves import curves_title, draw_curves
from leader.reporting.log import open_display
from leader.reporting.summary import summarize, write_summary
from leader.rpc.agreement import describe
from leader.rpc.refusals import Refusals
from leader.rpc.server import serving
from leader.rpc.service import LeaderService
from leader.rpc.uploads import Uploads
from leader.runtime import Host
from leader.state import RunState
from leader.storage.checkpoint import checkpoints, save_checkpoint
from leader.storage.metrics_log import MetricsLog
from leader.storage.run_folder import RunFolder, default_run_dir
from leader.training.coordinator import Coordinator
from model.weights_file import model_header
from utils import faults
from utils.errors import INTERRUPTED, CheckpointError, FlockstepError
from utils.files import write_atomically
from utils.vector import Vector

_log = logging.getLogger(__name__)


class App:
    """One run of the leader, with everything wired up."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        data: Data,
        *,
        resume: bool,
        host: Host | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._data = data
        origin = open_origin(config, data.classes)
        layout = origin.layout
        optimizer = make_optimizer(config)
        state = resumed_state(folder, layout) if resume else initial_state(config, origin, optimizer)
        self.resumed_round = state.round
        self.events = EventStream()
        self.layout = layout
        workforce = Workforce(
            config,
            classes=data.classes,
            labels=data.train.labels if data.train else None,
            groups=data.train.groups if data.train else None,
            seats=state.seats,
            events=self.events,
        )
        decoder = Decoder(config.codec, layout, config.streaming.fragments)
        self.coordinator = Coordinator(
            config,
            state,
            layout=layout,
            optimizer=optimizer,
            workforce=workforce,
            decoder=decoder,
            save=partial(
                save_checkpoint, folder.checkpoints, keep=config.keep_checkpoints, config=dump_config(config)
            ),
            events=self.events,
            spool=folder.path / "spool",
            host=host,
        )
        self.refusals = Refusals(self.events)
        wanted = config.evaluation
        self._best = BestModel(folder.best, layout, model_title(config), wanted.metric, wanted.mode)
        self._evaluations = (
            EvaluationQueue(
                Evaluator(origin.model, origin.task, data.test, config), self.events, self._keep_tested
            )
            if data.test is not None and len(data.test) and origin.model and origin.task
            else None
        )
        self._metrics = MetricsLog(
            folder,
            state.round,
            awaited=partial(awaited_evaluations, config, data.test if self._evaluations else None),
        )
        self._verdict = Verdict(wanted, self._best, self._evaluations, lambda: self.coordinator.state.vector)
        for subscriber in (self._metrics.on_event, self._verdict.on_event, self._offer_evaluation):
            self.events.subscribe(subscriber)
        self._recall(state)
        self.description = describe(config, origin, run_id=state.run_id, classes=data.classes)
        self.service = LeaderService(
            config,
            self.description,
            self.coordinator,
            Uploads(
                layout,
                decoder,
                config.limits,
                self.coordinator.traffic,
                self.coordinator.is_open,
                lambda: faults.reach("leader.uploading", self.coordinator.state.round + 1),
            ),
            data.train,
            self.events,
            self.refusals,
        )

    def _recall(self, state: RunState) -> None:
        """Take in what the run did before it was resumed.

        A crash right after the checkpoint may have lost what that round was to tell.
        """
        scored = FederatedEvaluated(state.round - 1, state.federated) if state.federated else None
        if scored is not None:
            self._metrics.on_event(scored)
        if state.committed is not None:
            self._metrics.on_event(state.committed)
        by_learners = self._best.metric.startswith(FEDERATED_PREFIX)
        self._verdict.recall(
            self._metrics.records, weights_before(self._folder, state) if by_learners else None
        )
        if scored is not None:
            self._verdict.on_event(scored)
        if state.committed is not None:
            self._verdict.on_event(state.committed)

    def _keep_tested(self, round_: int, metrics: Mapping[str, float], vector: Vector) -> None:
        self._best.offer(round_, on_test_split(metrics), vector)

    def _offer_evaluation(self, event: Event) -> None:
        if (
            isinstance(event, RoundCommitted)
            and self._evaluations
            and expects_evaluation(self._config, self._data.test, event.round)
        ):
            self._evaluations.offer(event.round, self.coordinator.state.vector)

    def started(self, address: str) -> RunStarted:
        """What to tell about this run when it begins."""
        return RunStarted(
            run_id=self.coordinator.state.run_id,
            run_dir=self._folder.path,
            dataset=self._data.name,
            model=model_title(self._config),
            parameters=self.layout.parameter_count,
            exchange=self._config.exchange,
            rounds=self._config.rounds,
            address=address,
            learners=self._config.learners,
            resumed_round=self.resumed_round,
            own_data=self._data.train is None,
        )

    async def run(self) -> str:
        """Train to the end; returns why the run was stopped, or ""."""
        leases = asyncio.ensure_future(self.coordinator.workforce.watch_leases())
        try:
            return await self.train()
        finally:
            leases.cancel()

    async def train(self) -> str:
        """What `run` does, with learners that have no leases, such as simulated ones."""
        if self.coordinator.state.committed is not None:
            self._offer_evaluation(self.coordinator.state.committed)
        return await self.coordinator.run(self._verdict.trained_enough)

    async def evaluated(self) -> None:
        """Wait for the evaluations under way."""
        if self._evaluations:
            await self._evaluations.idle()

    async def conclude(self, started: RunStarted, began: float, reason: str) -> RunFinished:
        """Send the learners home and write the results; raises CheckpointError, such as for a full disk."""
        finished = RunFinished(
            self.coordinator.state.round, time.monotonic() - began, reason, self._stopped_early(reason)
        )
        await self._dismiss(finished)
        try:
            await self._finish(started, finished)
        except OSError as error:
            raise CheckpointError(
                f"can't write the results to {self._folder.path}: {error.strerror}; "
                "free the disk or fix the folder, then resume the run"
            ) from error
        return finished

    def _stopped_early(self, reason: str) -> str:
        done = reason or self.coordinator.state.round >= self._config.rounds
        return "" if done else self._verdict.reason or ""

    async def _dismiss(self, finished: RunFinished) -> None:
        """Tell every learner that the run is over, and wait a moment for them to go."""
        members = list(self.coordinator.workforce)
        why = finished.reason or finished.stopped_early or "all rounds are done"
        for member in members:
            member.link.stop(why, finished=not finished.reason)
        await asyncio.gather(*(member.link.close() for member in members))

    async def _finish(self, started: RunStarted, finished: RunFinished) -> None:
        """Write what the run leaves behind: model, metrics, curves, summary."""
        if self._evaluations:
            await self._evaluations.finish()
        self._metrics.close()
        vector = self.coordinator.state.vector
        header = model_header(self.layout, {"format": "pt", "model": model_title(self._config)})
        write_atomically(self._folder.model, [header, vector.data.cast("B")])
        records = self._metrics.records
        digest = hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
        write_summary(
            self._folder.summary,
            summarize(records, started, finished, digest, self.refusals.counts, self._best.best),
        )
        if records:
            draw_curves(records, self._folder.curves, curves_title(started))


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
        path = config.run_dir or default_run_dir(model_title(config), datetime.now())
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
    return INTERRUPTED if reason else 0


def _how_to_resume(path: Path) -> str:
    return f"resume with: python -m leader --resume {path}"
