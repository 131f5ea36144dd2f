"""The learner program: register, work, reconnect with back-off, leave cleanly."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, replace

import torch
from grpc import aio

from learner.control.dialled import LearnerServer
from learner.control.registration import MENDABLE, Registration
from learner.control.session import Session
from learner.memory import Memory, alone_in
from learner.noise_key import NoiseKeys
from learner.options import LearnerOptions
from learner.privacy_floor import PrivacyFloor
from learner.secagg.member import Floors
from learner.secagg.sessions import MaskSessions
from learner.secagg.signing import Peers, Signer
from learner.secagg.vow import Vows
from learner.training.example_privacy import ExamplePrivacy
from learner.trust.access import choose
from learner.wire.connection import Connection
from learner.wire.edges import Edges
from learner.work.workbench import Tools, frozen_by
from learner.work.worker import Worker, unheard
from model.image_classification import ImageClassification
from model.precision import choose_device
from model.task import Examples, Task, load_task
from protos import leader_pb2
from utils.errors import (
    BusyError,
    ConfigError,
    DataError,
    FlockstepError,
    ForbiddenError,
    UnreachableError,
)
from utils.wire.contract import LeaderStub
from utils.wire.patience import Patience

_log = logging.getLogger(__name__)
_LEAVE_S = 2.0


@dataclass(frozen=True)
class Own:
    """The learner's own data and what it tells the leader about it."""

    examples: Examples
    said: leader_pb2.OwnData


def open_tools(options: LearnerOptions) -> Tools:
    """What the options say to train with; raises ConfigError."""
    task = load_task(options.task, "--task") if options.task else None
    device = choose_device(options.device)
    return Tools(device, task, compile=options.compile, channels_last=options.channels_last)


def open_own(options: LearnerOptions, task: Task | None) -> Own | None:
    """The data under --data, as the task reads it; raises DataError."""
    if options.data is None and task is None:
        return None
    if task is not None:
        examples = task.open_data(options.data, train=True)
        if examples is None or len(examples) == 0:
            where = f"in {options.data}" if options.data else "by itself; name a place with --data"
            raise DataError(f"--data: the task finds no training examples {where}")
        said = leader_pb2.OwnData(examples=len(examples), fingerprint=fingerprint_of(examples))
        _log.info("own data: %d examples; it stays here", len(examples))
        return Own(examples, said)
    images = ImageClassification().open_data(options.data, train=True)
    assert images is not None
    _log.info(
        "own data: %s, %d examples in %d classes; it stays here",
        images.name,
        len(images),
        len(images.classes),
    )
    said = leader_pb2.OwnData(
        examples=len(images), classes=len(images.classes), fingerprint=images.fingerprint()
    )
    return Own(images, said)


def fingerprint_of(examples: Examples) -> str:
    """What the examples say that identifies them, if they do."""
    fingerprint = getattr(examples, "fingerprint", None)
    return str(fingerprint())[:64] if callable(fingerprint) else ""


class App:
    """One learner, from its first registration to the leader's Stop."""

    def __init__(
        self,
        options: LearnerOptions,
        tools: Tools,
        own: Own | None,
        worker_type: type[Worker] = Worker,
    ) -> None:
        self._options = options
        memory, keys = Memory(options.state_dir), NoiseKeys(options.state_dir)
        floors = Floors(options.least_learners, signed=options.secagg == "signed")
        self._peers = Peers(options.peers) if options.peers else None
        self._promised = False  # whether this learner has said whom it masks with
        masks = MaskSessions(
            Vows(options.state_dir),
            floors,
            own.said.examples if own else 0,
            required=options.secagg != "allow",
            signing=self._signing,
            noise_keys=keys,
        )
        privacy = ExamplePrivacy(options.state_dir, keys, options.dp_budget)
        tools = replace(tools, privacy=privacy, floor=PrivacyFloor(options.require_dp))
        self._access = choose(options)
        edges, examples = Edges(self._access.dial), own.examples if own else None
        self._worker = worker_type(tools, memory, options.network_addr, edges, examples, masks)
        if floors.signed and not self._access.enrolled:
            raise ConfigError(
                "--secagg signed: this learner has no identity to sign with; join with --join TOKEN"
            )
        address = options.network_addr
        self._server = LearnerServer(address, self._worker, self._access) if address else None
        said = own.said if own else None
        if said is not None and options.dp_budget:
            said.ClearField("fingerprint")  # who guesses all of the data could check that by it
        self._registration = Registration(options, tools.device, said, frozen_by(tools.task))
        self._session: Session | None = None
        self._leaving = asyncio.Event()

    def _signing(self) -> Signer | None:
        """By what this learner can prove who it is in a session of masks."""
        if not self._access.enrolled or self._access.credentials is None:
            return None
        signer = Signer(self._access.credentials, self._peers)
        if not self._promised:
            self._promised = True
            _log.info("%s", signer.promise)
        return signer

    def leave(self, reason: str) -> None:
        """Say goodbye and end."""
        _log.info("%s: leaving", reason)
        self._leaving.set()
        if self._session is not None:
            self._session.goodbye(reason)

    async def run(self) -> None:
        """Work until the leader says stop or `leave` is called.

        Raises UnreachableError when the leader stays away for too long, and any error that a
        reconnect can't mend.
        """
        work = asyncio.ensure_future(self._worker.run())
        control = asyncio.ensure_future(self._follow())
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((work, control, leaving), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await self._report_failure(work, control)
            if control.done():
                control.result()
            elif self._leaving.is_set():
                await asyncio.wait((control,), timeout=2.0)  # goodbye is on its way
        finally:
            for task in (work, control, leaving):
                task.cancel()
            await self._worker.close()
            if self._server is not None:
                await self._server.close()
            self._access.close()

    async def _report_failure(self, work: asyncio.Task[None], control: asyncio.Task[None]) -> None:
        error = work.exception()
        if self._session is not None and error is not None:
            self._leaving.set()
            # What a task of the user's own raises may quote the data, which stays here.
            known = isinstance(error, FlockstepError)
            why = str(error) if known else f"{type(error).__name__} in its task; see the learner's output"
            self._session.failure(self._worker.failed_work, why)
            await asyncio.wait((control,), timeout=_LEAVE_S)  # until the leader has heard it
        work.result()

    async def _follow(self) -> None:
        """Register and take orders; when the connection breaks, do it again."""
        patience = Patience(self._options.connect_timeout_s)
        while True:
            try:
                async with await self._access.open() as channel:
                    connection = await self._register(channel)
                    try:
                        stop = await self._serve(connection, channel)
                    finally:
                        patience = Patience(self._options.reconnect_timeout_s)
                if stop is not None:
                    _log.info("the leader says stop: %s", stop.reason)
                    return
                problem, least_s = "it closed the session", 0.0
                if self._access.renewed:
                    continue
            except UnreachableError as error:
                problem, least_s = f"{error}; check the address, and that the leader runs", 0.0
            except ForbiddenError:
                if not self._access.outdated():
                    raise
                continue  # it slept when a new certificate's turn came
            except MENDABLE as error:
                problem, least_s = str(error), error.retry_after_s if isinstance(error, BusyError) else 0.0
            if self._leaving.is_set():
                return
            await asyncio.sleep(patience.next_wait(self._options.leader, problem, least_s))

    async def _register(self, channel: aio.Channel) -> Connection:
        if self._server is not None:
            await self._server.listen()
        try:
            return await self._registration.register(LeaderStub(channel))
        except (UnreachableError, ForbiddenError) as error:
            raise await self._access.explain(error) from None

    async def _serve(self, connection: Connection, channel: aio.Channel) -> leader_pb2.Stop | None:
        """Take orders over this connection; the leader's Stop, or None when it is over without.

        Raises what the leader refused control with, and what an order failed with that needs another
        connection.
        """
        session = None if self._server else Session(connection, self._worker, self._access)
        broken = self._worker.connect(connection, session.progress if session else unheard)
        control = asyncio.ensure_future(self._control(connection, session))
        keeping = asyncio.ensure_future(self._access.keep(channel))
        try:
            await asyncio.wait((control, broken, keeping), return_when=asyncio.FIRST_COMPLETED)
            if control.done():
                return control.result()
            if broken.done():
                raise broken.result()
            return keeping.result()
        finally:
            control.cancel()
            keeping.cancel()
            await asyncio.gather(control, keeping, return_exceptions=True)
            self._worker.disconnect()

    async def _control(self, connection: Connection, session: Session | None) -> leader_pb2.Stop | None:
        if self._server is not None:
            return await self._server.run(connection)
        assert session is not None
        self._session = session
        try:
            return await session.run()
        finally:
            self._session = None


async def learn(
    options: LearnerOptions, tools: Tools, own: Own | None, worker_type: type[Worker] = Worker
) -> int:
    """Run one learner until the leader says stop or a signal comes; returns the exit code.

    Raises FlockstepError.
    """
    app = App(options, tools, own, worker_type)
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def leave(number: signal.Signals) -> None:
        received.append(number)
        app.leave(f"stopped by {number.name}")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave, number)
    await app.run()
    return 128 + received[0] if received else 0


def run(options: LearnerOptions) -> int:
    """Set up device and data, then learn; returns the exit code."""
    if options.threads:
        torch.set_num_threads(options.threads)
    # The same order must give the same update each time it is trained.
    torch.backends.cudnn.deterministic = True
    tools = open_tools(options)
    with alone_in(options.state_dir):
        return asyncio.run(learn(options, tools, open_own(options, tools.task)))
