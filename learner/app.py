"""The learner program: its parts wired up, its work under the leader's control, and a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass, replace

import torch

from learner.control.reconnect import Control
from learner.control.registration import Registration
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
from learner.wire.edges import Edges
from learner.work.workbench import Tools, frozen_by
from learner.work.worker import Worker
from model.device import choose_device
from model.image_classification import ImageClassification
from model.task import Examples, Task, load_task
from protos import leader_pb2
from utils.errors import ConfigError, DataError, FlockstepError

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
        data = own.said.fingerprint if own else ""
        privacy = ExamplePrivacy(options.state_dir, keys, options.dp_budget, data)
        tools = replace(tools, privacy=privacy, floor=PrivacyFloor(options.require_dp))
        self._access = choose(options)
        edges, examples = Edges(self._access.dial), own.examples if own else None
        self._worker = worker_type(tools, memory, options.network_addr, edges, examples, masks)
        if floors.signed and not self._access.enrolled:
            raise ConfigError(
                "--secagg signed: this learner has no identity to sign with; join with --join TOKEN"
            )
        said = own.said if own else None
        if said is not None and options.dp_budget:
            said.ClearField("fingerprint")  # who guesses all of the data could check that by it
        registration = Registration(options, tools.device, said, frozen_by(tools.task))
        self._control = Control(options, registration, self._worker, self._access)

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
        self._control.leave(reason)

    async def run(self) -> None:
        """Work until the leader says stop or `leave` is called.

        Raises UnreachableError when the leader stays away for too long, and any error that a
        reconnect can't mend.
        """
        work = asyncio.ensure_future(self._worker.run())
        control = asyncio.ensure_future(self._control.run())
        leaving = asyncio.ensure_future(self._control.leaving.wait())
        try:
            await asyncio.wait((work, control, leaving), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await self._report_failure(work, control)
            if control.done():
                control.result()
            elif self._control.leaving.is_set():
                await asyncio.wait((control,), timeout=_LEAVE_S)  # goodbye is on its way
        finally:
            for task in (work, control, leaving):
                task.cancel()
            await self._worker.close()
            await self._control.close()
            self._access.close()

    async def _report_failure(self, work: asyncio.Task[None], control: asyncio.Task[None]) -> None:
        error = work.exception()
        if error is not None:
            # What a task of the user's own raises may quote the data, which stays here.
            known = isinstance(error, FlockstepError)
            why = str(error) if known else f"{type(error).__name__} in its task; see the learner's output"
            if self._control.failed(self._worker.failed_work, why):
                await asyncio.wait((control,), timeout=_LEAVE_S)  # until the leader has heard it
        work.result()


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
