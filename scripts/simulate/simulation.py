"""One simulation: the leader as it is, without its server, and virtual learners in its own process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from leader.app import App, stop_on_signals
from leader.config import RunConfig
from leader.data.dataset import open_data
from leader.events import Event, WaitingForLearners
from leader.initial_state import open_folder
from leader.reporting.log import Display, open_display
from leader.runtime import Host
from learner.memory import Memory
from learner.work.workbench import Assignments, Tools, build_trainer, frozen_by
from model.device import choose_device
from model.task import load_task
from protos import leader_pb2
from scripts.simulate.agenda import Agenda
from scripts.simulate.batched_pool import Batched, check_batching
from scripts.simulate.clock import VirtualClock
from scripts.simulate.crew import Crew
from scripts.simulate.drive import Driver, Tamper
from scripts.simulate.parts import Brought, brought
from scripts.simulate.pool import OneWorker, Pool, Threads
from scripts.simulate.timetable import Timetable
from utils.datasets import Dataset
from utils.errors import ConfigError, FlockstepError

P = ParamSpec("P")
T = TypeVar("T")
_ADDRESS = "no port (simulated)"


@dataclass(frozen=True)
class Options:
    """How a simulation is run; of its results, `speed_spread` changes any, `batch_clients` the last places."""

    workers: int = 1  # orders trained at once, each on one CPU thread
    batch_clients: int = 1  # orders trained as one batch
    ray: str | None = None  # train on this Ray cluster: its address, or "local" for one of its own
    speed_spread: float = 0.0  # standard deviation of the logarithm of the learners' speeds
    parts: Path | None = None  # folder with an entry for each learner to bring (data.holder = learner)
    device: str = "cpu"
    display: bool = False  # show the run on stderr; SIGINT and SIGTERM stop it


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to."""

    folder: Path
    summary: dict[str, Any]  # summary.json
    reason: str  # why it was stopped, or ""


@dataclass(frozen=True)
class Hooks:
    """What a caller adds to a simulation."""

    own: Sequence[Brought] = ()  # what the learners bring, in place of what the config says
    tamper: Tamper | None = None  # changes updates before they are sent, as attackers do
    listener: Callable[[Event], None] | None = None  # is told every event


def simulate(
    config: RunConfig, options: Options | None = None, hooks: Hooks | None = None, *, resume: bool = False
) -> Outcome:
    """Run `config` with `config.learners` virtual learners; with `resume`, go on with the run in its folder.

    Raises FlockstepError.
    """
    options, hooks = options or Options(), hooks or Hooks()
    if config.secagg.mode == "signed":
        raise ConfigError(
            "secagg.mode is signed, but virtual learners have no identities: set secagg.mode=masked, which ends in "
            "the same bits"
        )
    config = _roomy(config)
    task = load_task(config.model.task, "model.task") if config.model.task else None
    if options.batch_clients > 1:
        if options.ray is not None or options.workers > 1:
            raise ConfigError("--batch-clients trains in one thread: leave out --workers and --ray, or it")
        check_batching(config, task)
    # torch.func.vmap knows no channels_last.
    tools = Tools(choose_device(options.device), task, channels_last=options.batch_clients == 1)
    if config.data.holder == "learner" and not hooks.own:
        hooks = replace(hooks, own=brought(config, task, options.parts))
    data = open_data(config)
    config, folder = open_folder(config, resume=resume)
    clock = VirtualClock()
    try:
        app = App(config, folder, data, resume=resume, host=Host(clock, _Inline()))
        memory = Memory(folder.path / "learners")
        reason = asyncio.run(_lead(config, options, hooks, app, clock, tools, memory, data.train))
    except FlockstepError:
        if not resume:
            folder.discard()  # nothing began, so the same command can be given again
        raise
    return Outcome(folder.path, json.loads(folder.summary.read_text(encoding="utf-8")), reason)


def _roomy(config: RunConfig) -> RunConfig:
    """`config` with room for all its learners."""
    limits = config.limits
    most = max(limits.max_learners, config.learners)
    return config.model_copy(update={"limits": limits.model_copy(update={"max_learners": most})})


class _Inline(Executor):
    """Does work at once, on the thread that asks: small tasks take less time than handing them to another."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


async def _lead(
    config: RunConfig,
    options: Options,
    hooks: Hooks,
    app: App,
    clock: VirtualClock,
    tools: Tools,
    memory: Memory,
    data: Dataset | None,
) -> str:
    """Train one run and write its results; returns why it was stopped, or ""."""
    agenda = Agenda(config.seed, options.speed_spread)
    assignments = Assignments(app.description, tools, memory, app.layout)
    with ExitStack() as stack:
        pool = _open_pool(options, app.description, tools)
        stack.callback(pool.close)
        crew = Crew(app, clock, agenda, pool, assignments, memory, data)
        crew.register(config.learners, hooks.own, frozen_by(tools.task))
        if config.buffer.size and config.run_dir is not None:
            timetable = Timetable(
                config.run_dir / "timetable.json", clock, agenda, config.keep_checkpoints + 1
            )
            timetable.resume(app.resumed_round)
            app.events.subscribe(timetable.on_event)
        if hooks.listener is not None:
            app.events.subscribe(hooks.listener)
        if options.display:
            display = open_display(config.log, config.rounds, sys.stderr)
            stack.callback(display.close)
            app.events.subscribe(lambda event: _show(display, event))
            stop_on_signals(app.coordinator)
        driver = Driver(app, clock, agenda, assignments, memory, hooks.tamper, crew.masks_of)
        return await app.lead(_ADDRESS, partial(_train, app, driver))


def _open_pool(options: Options, run: leader_pb2.RunDescription, tools: Tools) -> Pool:
    if options.ray is not None:
        from scripts.simulate.ray_pool import RayActors

        return RayActors(options.ray, options.workers, run, tools)
    make_trainer = partial(build_trainer, run, tools)
    if options.batch_clients > 1:
        return Batched(options.batch_clients, make_trainer)
    return OneWorker(make_trainer) if options.workers == 1 else Threads(options.workers, make_trainer)


def _show(display: Display, event: Event) -> None:
    """Tell the display about `event`; nobody can be asked to start the learners that are waited for."""
    if not isinstance(event, WaitingForLearners):
        display.on_event(event)


async def _train(app: App, driver: Driver) -> str:
    """Run leader and driver side by side; returns why the run was stopped, or ""."""
    run = asyncio.ensure_future(app.train())
    drive = asyncio.ensure_future(driver.run())
    try:
        await asyncio.wait((run, drive), return_when=asyncio.FIRST_COMPLETED)
        if drive.done() and drive.exception() is not None:
            app.coordinator.stop("the simulation failed; see the error")
            await run
            drive.result()
        return await run
    finally:
        drive.cancel()
