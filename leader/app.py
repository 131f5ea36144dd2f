"""The leader program: wiring, start, drain, stop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from leader.cli import Command
from leader.config import RunConfig
from leader.config.yaml_file import dump_config
from leader.data.dataset import Data, open_data
from leader.distributed.ticket import key_of
from leader.dp.privacy import open_privacy
from leader.evaluation.tracker import Tracker
from leader.events import Event, RoundCommitted, RunFinished, RunStarted
from leader.global_model.initial import model_title, open_origin
from leader.initial_state import initial_state, open_folder, resumed_state
from leader.reporting.curves import curves_title, draw_curves
from leader.reporting.log import open_display, show_invitation, show_page
from leader.reporting.summary import summarize, write_summary
from leader.rpc.server import serving
from leader.rpc.service import LeaderService
from leader.runtime import Host
from leader.services.cache import open_cache, share_models
from leader.services.open import open_record
from leader.services.record.followers import ServiceState
from leader.services.record.writer import Record
from leader.services.registry.lineage import register_at_end, starting_weights
from leader.state import RunState
from leader.storage.checkpoint import save_checkpoint
from leader.storage.run_folder import RunFolder
from leader.storage.side_files import SideFiles
from leader.training.coordinator import Coordinator
from leader.training.engine import Engine
from leader.training.exchanges.base import ExchangeKind
from leader.training.exchanges.kinds import choose_kind
from leader.trust.access.listeners import Ports
from leader.trust.admission import Admission, Invitation
from leader.web.server import View, web_server
from leader.wiring import Wiring
from model.weights_file import model_header
from utils.console import say
from utils.errors import INTERRUPTED, CheckpointError, FlockstepError
from utils.files import remedy, write_atomically
from utils.vector import Vector
from utils.wire.rpc import SERVICE

_log = logging.getLogger(__name__)
_VERSIONS = 1000  # rounds whose model version is remembered
_INSECURE = "--insecure: whoever reaches %s can fetch the model and send updates"


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
        kind: Callable[[Engine], ExchangeKind] = choose_kind,
    ) -> None:
        self._config = config
        self._folder = folder
        origin = open_origin(config, data.classes, starting_weights(config, folder, resume=resume))
        examples = 0 if data.train is None else len(data.train.labels)
        state = (
            resumed_state(config, folder, origin.layout, examples)
            if resume
            else initial_state(config, origin)
        )
        self.resumed_round = state.round
        self._record = open_record(config, folder, state, resume=resume)
        side_files, keep = SideFiles(folder.checkpoints), config.keep_checkpoints
        save = partial(_save, self._record, folder.checkpoints, side_files, keep, dump_config(config))
        spool = folder.path / "spool"
        self._privacy = open_privacy(config, origin.layout, folder.ledger, state)
        state = self._privacy.begin(state)
        self._wiring = Wiring(
            config, origin, state, data, save=save, spool=spool, host=host, kind=kind, privacy=self._privacy
        )
        self._spent = ""  # why no further round can be paid
        self.layout = origin.layout
        self.events = self._wiring.events
        self.coordinator = self._wiring.coordinator
        self.description = self._wiring.description
        self._versions = {state.round: state.version}  # of the newest rounds
        self.events.subscribe(self._note_version)
        self.events.subscribe(self._record.on_event)
        self._tracker = Tracker(config, folder, origin, data.test, state, self.events, self._weights)

    def _weights(self) -> Vector:
        return self.coordinator.state.result

    def _started(self, address: str) -> RunStarted:
        """What to tell about this run when it begins."""
        return RunStarted(
            run_id=self.coordinator.state.run_id,
            run_dir=self._folder.path,
            dataset=self._wiring.data.name,
            model=model_title(self._config),
            parameters=self.layout.parameter_count,
            exchange=self._config.exchange,
            rounds=self._config.rounds,
            address=address,
            learners=self._config.learners,
            resumed_round=self.resumed_round,
            own_data=self._wiring.data.train is None,
            proof=self._proof(),
        )

    def _proof(self) -> str:
        if not self._config.secure:
            return ""
        own_pki = self._config.trust.certificate is not None
        return "--ca FILE --certificate FILE --key FILE" if own_pki else "--join TOKEN"

    async def serve(self, invite: Callable[[RunStarted, Invitation], None] = lambda *_: None) -> str:
        """Listen, and train with the learners that come; returns why the run was stopped, or "".

        `invite` tells how they join a secure run, which holds a secret. Raises FlockstepError. A task that is
        cancelled ends as a killed process does: nobody is told.
        """
        admission = self._wiring.admission()
        if admission is None and self._config.beyond_loopback:
            _log.warning(_INSECURE, self._config.listen)
        ports = admission.ports if admission else self._wiring.plain_ports()
        service = self._wiring.service()
        try:
            async with (
                serving(
                    self._config.limits, self._config.listen, {SERVICE: service.handler()}, ports
                ) as address,
                self._edges(service, admission),
                self._http(service, ports, admission),
            ):
                self.coordinator.workforce.dialling.own_port = int(address.rpartition(":")[2])
                write_atomically(self._folder.path / "address", [address.encode()])
                if admission is not None and (invitation := admission.invite()):
                    invite(self._started(address), invitation)
                reason = await self._lead(address, partial(self._train_under_watch, admission))
            # Not before the server has stopped: what may take seconds must not leave learners with a leader
            # that answers and counts nothing.
            await self._close_record()
            return reason
        except asyncio.CancelledError:
            await self._abandon()
            raise
        except Exception as error:
            await self._close_record()
            if admission is not None and isinstance(error, FlockstepError):
                round_ = self.coordinator.state.round
                admission.audit.record("stop", round=round_, reason=f"failed: {error}")
            raise
        finally:
            if admission is not None:
                admission.audit.close()

    async def _abandon(self) -> None:
        await asyncio.to_thread(self._record.abandon)
        self._tracker.evaluations.cancel()
        for member in self.coordinator.workforce:
            member.link.end()

    @property
    def edges(self) -> tuple[str, ...]:
        """HOST:PORT of the edges that are here, as learners reach them."""
        return self._wiring.hub.addresses if self._wiring.hub is not None else ()

    @asynccontextmanager
    async def _edges(self, service: LeaderService, admission: Admission | None) -> AsyncIterator[None]:
        """Listen for edges where the config says so; they are told when the run is over."""
        hub, listen = self._wiring.hub, self._config.edges.listen
        if hub is None:
            yield
            return
        ports = admission.edge_ports if admission else self._wiring.plain_edge_ports()
        handlers = self._wiring.edge_handlers(service)
        async with serving(self._config.limits, listen, handlers, ports) as address:
            write_atomically(self._folder.path / "edges", [address.encode()])
            _log.info("edges reach this leader at %s", address)
            async with self._models_shared():
                yield
            hub.end("the run is over")
            await hub.dismissed()

    @asynccontextmanager
    async def _models_shared(self) -> AsyncIterator[None]:
        """Put the versions of the model where edges look for them first, if there is such a place."""
        redis, state = self._config.services.redis, self.coordinator.state
        cache = open_cache("services.redis.url", redis.url, key_of(state.secret))
        versions, run_id = self.coordinator.versions, state.run_id
        sharing = asyncio.ensure_future(share_models(cache, run_id, versions, redis.ttl_s))
        try:
            yield
        finally:
            sharing.cancel()
            with suppress(asyncio.CancelledError):
                await sharing
            await cache.close()

    @asynccontextmanager
    async def _http(
        self, service: LeaderService, ports: Ports, admission: Admission | None
    ) -> AsyncIterator[None]:
        """Listen for learners without gRPC where the config says so; they stand behind the same guard as all others."""
        config = self._config
        if not config.http.listen:
            yield
            return
        # Imported here, so that a run without it doesn't wait for a web server's libraries.
        from leader.http.calls import Calls
        from leader.http.routes import Api
        from leader.http.server import serving_http

        app = Api(Calls(service.handler(work_told=True), ports.guard))
        own = admission.credentials if admission else None
        async with serving_http(config.http, config.limits, app, own, ports.renewed) as address:
            ports.connections.ports.add(int(address.rpartition(":")[2]))
            url = f"{'https' if own else 'http'}://{address}"
            write_atomically(self._folder.path / "http", [url.encode()])
            _log.info("learners without gRPC reach this leader at %s", url)
            yield

    @property
    def services(self) -> tuple[ServiceState, ...]:
        """How the services are that follow the run's record."""
        return self._record.followers.states

    async def lead(self, address: str, train: Callable[[], Awaitable[str]]) -> str:
        """Tell that the run begins, `train`, and write the results; returns why it was stopped, or ""."""
        try:
            return await self._lead(address, train)
        finally:
            await self._close_record()

    async def _close_record(self) -> None:
        await asyncio.to_thread(self._record.close)

    async def _lead(self, address: str, train: Callable[[], Awaitable[str]]) -> str:
        started = self._started(address)
        self.events.publish(started)
        for line in self._privacy.promise(self.layout):
            _log.info("%s", line)
        began = time.monotonic()
        try:
            reason = await train()
        except Exception:
            with suppress(CheckpointError):  # what ended the run is told, not what that led to
                await self._conclude(started, began, "it failed; see the error")
            raise
        self.events.publish(await self._conclude(started, began, reason))
        return reason

    async def _train_under_watch(self, admission: Admission | None) -> str:
        watches = [asyncio.ensure_future(self.coordinator.workforce.watch_leases())]
        if admission is not None:
            watches.append(asyncio.ensure_future(admission.watch(self._wiring.turn_out)))
        try:
            return await self.train()
        finally:
            for watch in watches:
                watch.cancel()

    async def train(self) -> str:
        """Commit the rounds that are left, with learners from anywhere; returns why that was stopped, or ""."""
        if self.coordinator.state.committed is not None:
            self._tracker.offer(self.coordinator.state.round)
        return await self.coordinator.run(self._trained_enough, lambda: self._tracker.scored)

    async def _trained_enough(self) -> bool:
        coordinator = self.coordinator
        self._spent = self._privacy.spent(coordinator.state.round + 1, coordinator.workforce.parts())
        return await self._tracker.verdict.trained_enough() or bool(self._spent)

    async def evaluated(self) -> None:
        """Wait for the evaluations under way."""
        await self._tracker.evaluations.idle()

    async def _conclude(self, started: RunStarted, began: float, reason: str) -> RunFinished:
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
                f"{remedy(error)}, then resume the run"
            ) from error
        if not reason:
            await asyncio.to_thread(self._register)
        return finished

    def _register(self) -> None:
        register_at_end(
            self._config, self._folder, self._tracker.records, self._versions, self._wiring.data.train
        )

    def _note_version(self, event: Event) -> None:
        if isinstance(event, RoundCommitted):
            self._versions[event.round] = self.coordinator.state.version
            self._versions.pop(event.round - _VERSIONS, None)

    def _stopped_early(self, reason: str) -> str:
        done = reason or self.coordinator.state.round >= self._config.rounds
        return "" if done else self._tracker.verdict.reason or self._spent

    async def _dismiss(self, finished: RunFinished) -> None:
        """Tell every learner that the run is over, and wait a moment for them to go."""
        links = self.coordinator.workforce.links()
        why = finished.reason or finished.stopped_early or "all rounds are done"
        for link in links:
            link.stop(why, finished=not finished.reason)
        await asyncio.gather(*(link.close() for link in links))

    async def _finish(self, started: RunStarted, finished: RunFinished) -> None:
        """Write what the run leaves behind: model, metrics, curves, summary."""
        await self._tracker.close()
        vector = self.coordinator.state.result
        header = model_header(self.layout, {"format": "pt", "model": model_title(self._config)})
        write_atomically(self._folder.model, [header, vector.data.cast("B")])
        records = self._tracker.records
        digest = hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
        refused, best, audit_head = self._wiring.refusals.counts, self._tracker.best, self._wiring.audit_head
        privacy = self._privacy.summary()
        summary = summarize(records, started, finished, digest, refused, best, audit_head, privacy)
        write_summary(self._folder.summary, summary)
        if records:
            draw_curves(records, self._folder.curves, curves_title(started))


async def _lead(config: RunConfig, folder: RunFolder, data: Data, *, resume: bool) -> str:
    display = open_display(config.log, config.rounds, sys.stderr)
    try:
        app = App(config, folder, data, resume=resume)
        app.events.subscribe(display.on_event)
        stop_on_signals(app.coordinator)
        views = partial(_views, config, folder, app)
        with web_server(config.web.listen, folder.page, app.events, views) as url:
            show_page(config.log, sys.stderr, url, folder.page)
            return await app.serve(partial(show_invitation, config.log, sys.stderr))
    finally:
        display.close()


def _save(
    record: Record, checkpoints: Path, side_files: SideFiles, keep: int, config: str, state: RunState
) -> None:
    record.settle()  # so that a round whose checkpoint is there is in the record too
    save_checkpoint(checkpoints, state, keep=keep, config=config, side_files=side_files)


def _views(config: RunConfig, folder: RunFolder, app: App) -> Sequence[View]:
    from leader.web.views import views_of  # here, in the server's thread: it loads a web server's libraries

    return views_of(config, folder, lambda: app.services)


def stop_on_signals(coordinator: Coordinator) -> None:
    """Let SIGINT and SIGTERM end the run in good order; for a program's main thread."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, coordinator.stop, f"stopped by {signal.Signals(number).name}")


def run(command: Command) -> int:
    """Lead the run that `command` describes; returns the exit code."""
    resume = command.resume is not None
    data = open_data(command.config)
    command.clear_away()
    config, folder = open_folder(command.config, resume=resume)
    try:
        reason = asyncio.run(_lead(config, folder, data, resume=resume))
    except FlockstepError as error:
        if not resume and folder.discard():
            raise  # nothing began, so the same command can be given again
        raise type(error)(*error.args, _how_to_resume(folder.path)) from error
    if reason:
        say(reason, _how_to_resume(folder.path), file=sys.stderr)
    else:
        say(f"results are in {folder.path}", file=sys.stderr)
    return INTERRUPTED if reason else 0


def _how_to_resume(path: Path) -> str:
    return f"resume with: python -m leader --resume {path}"
