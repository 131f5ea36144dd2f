"""A whole run in one process: a leader and its learners on one event loop, over real gRPC on loopback.

For tests, of a task of your own too: nothing is patched, and a program is killed by cancelling its task.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from leader.app import App as LeaderApp
from leader.cli import parse
from leader.condition import Signal
from leader.data.dataset import Data, open_data
from leader.edge.app import App as EdgeApp
from leader.edge.options import EdgeOptions
from leader.events import Event, RoundCommitted, RunFinished, RunStarted
from leader.initial_state import open_folder
from leader.training.engine import Engine
from leader.training.exchanges.base import ExchangeKind
from leader.training.exchanges.kinds import choose_kind
from leader.trust.admission import Invitation
from learner.app import App as LearnerApp
from learner.app import open_own, open_tools
from learner.memory import alone_in
from learner.options import LearnerOptions
from learner.work.worker import Worker
from utils.vector import Vector

E = TypeVar("E", bound=Event)
_LAST = 10  # events that are shown when one did not come


class Node:
    """A leader or a learner under way."""

    def __init__(self, name: str, work: Coroutine[Any, Any, object], changed: Signal) -> None:
        self.name = name
        self.excused = False  # whether its end is nobody's concern
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(lambda task: changed.notify())

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._task.done()

    @property
    def error(self) -> BaseException | None:
        """What it failed with, if it did."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    async def kill(self) -> None:
        """End it at once; it tells nobody and writes nothing."""
        self.excused = True
        self._task.cancel()
        await asyncio.wait((self._task,))


class Cluster:
    """A leader and its learners; entered and left with `async with`, which ends all that still run.

    `settings` are config keys of the leader, such as `{"rounds": 3, "train.lr": 0.1}`. It listens on a
    free port of 127.0.0.1, and its run folder is temporary unless `run_dir` is among them. With `data`
    it does not open the data that they name; `kind` is how the run exchanges. Waits end with AssertionError
    after `timeout_s` seconds, or at once with what a program has failed with.
    """

    def __init__(
        self,
        settings: Mapping[str, object],
        *,
        data: Data | None = None,
        timeout_s: float = 60.0,
        kind: Callable[[Engine], ExchangeKind] = choose_kind,
    ) -> None:
        self.events: list[Event] = []  # all that happened so far, of resumed leaders too
        self.address = ""  # where the leader listens
        self.invitation: Invitation | None = None  # of a secure run: what new learners join with
        self._settings = {"listen": "127.0.0.1:0", **settings}
        self._data = data
        self._timeout_s = timeout_s
        self._kind = kind
        self._changed = Signal()
        self._learners: list[Node] = []

    async def __aenter__(self) -> Self:
        self._temporary = TemporaryDirectory(prefix="flockstep-", ignore_cleanup_errors=True)
        run_dir = Path(self._temporary.name, "run")
        try:
            await self._lead(_flags({"run_dir": run_dir, **self._settings}))
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in (*self._learners, self.leader):
            await program.kill()
        self._temporary.cleanup()

    async def _lead(self, argv: list[str]) -> None:
        command = parse(argv, {})
        data = self._data or open_data(command.config)
        resume = command.resume is not None
        self.config, folder = open_folder(command.config, resume=resume)
        self.app = LeaderApp(self.config, folder, data, resume=resume, kind=self._kind)
        self.run_dir = folder.path
        self.app.events.subscribe(self._on_event)
        begun = len(self.events)
        self.leader = Node("leader", self.app.serve(self._on_invitation), self._changed)
        await self.until(lambda: len(self.events) > begun, "no leader")
        await self._served()

    async def _served(self) -> None:
        """Wait until there is a model to be had; who asks before is told to ask again."""
        versions = self.app.coordinator.versions
        served = asyncio.ensure_future(versions.changed.wait_until(lambda: versions.number is not None))
        served.add_done_callback(lambda _: self._changed.notify())
        try:
            await self.until(served.done, "no model")
        finally:
            served.cancel()

    def _on_invitation(self, started: RunStarted, invitation: Invitation) -> None:
        self.invitation = invitation

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RunStarted):
            self.address = event.address
        self._changed.notify()

    # --- programs --------------------------------------------------------------------------

    def learner(self, name: str = "", *, worker: type[Worker] = Worker, **options: Any) -> Node:
        """Start a learner on the CPU; `options` are the learner's flags, such as `data=Path("photos")`.

        It joins a secure run, with an identity that is its name's as long as the cluster lives.
        Learners that draw from torch's own generator, as dropout does, share it here: two such runs differ.
        """
        given = {"leader": self.address, "device": "cpu", "name": name, **self._proof(name), **options}
        program = Node(name or "learner", _learn(LearnerOptions.model_validate(given), worker), self._changed)
        self._learners.append(program)
        return program

    def edge(self, name: str, *, above: int = 0, **options: Any) -> Node:
        """Start an edge below the leader, or below the edge that listens for edges at port `above` of 127.0.0.1.

        `options` are the edge's flags. The config needs `edges.listen`, such as 127.0.0.1:0.
        """
        leader = f"127.0.0.1:{above}" if above else (self.run_dir / "edges").read_text(encoding="utf-8")
        given = {"leader": leader, "name": name, **options}
        edge = EdgeApp(EdgeOptions.model_validate(given))
        program = Node(name, edge.run(), self._changed)
        self._learners.append(program)
        return program

    def _proof(self, name: str) -> dict[str, Any]:
        if self.invitation is None:
            return {}
        folder = Path(self._temporary.name, "identities", name or f"learner-{len(self._learners)}")
        return {"join": self.invitation.token, "identity": folder}

    async def resume(self, **settings: object) -> None:
        """Kill the leader if it still runs, and start another that goes on with its run at its address.

        `settings` change config keys; a dot is written as two underscores, as in `train__lr`.
        """
        await self.leader.kill()
        changed = {key.replace("__", "."): value for key, value in settings.items()}
        await self._lead(["--resume", str(self.run_dir), *_flags({"listen": self.address, **changed})])

    # --- waits -----------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait until `condition`, looked at after each event; `otherwise` says what did not come."""
        await self._wait(lambda: condition() or self.leader.ended)
        if not condition():
            why = "the leader has ended" if self.leader.ended else f"after {self._timeout_s:g} s"
            last = "\n".join(map(repr, self.events[-_LAST:]))
            raise AssertionError(f"{otherwise}: {why}; the last events:\n{last}")

    async def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` or a while; raises what a program has failed with meanwhile."""
        await self._changed.wait_until(lambda: condition() or self._failure() is not None, self._timeout_s)
        if not condition() and (error := self._failure()) is not None:
            raise error

    def _failure(self) -> BaseException | None:
        errors = (program.error for program in (*self._learners, self.leader) if not program.excused)
        return next((error for error in errors if error is not None), None)

    def seen(self, kind: type[E], /, **fields: object) -> list[E]:
        """The events of this kind with these fields so far."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and all(getattr(event, name) == fields[name] for name in fields)
        ]

    async def event(self, kind: type[E], /, **fields: object) -> E:
        """The first event of this kind with these fields, whether it has happened or is to come."""
        await self.until(lambda: bool(self.seen(kind, **fields)), f"no {kind.__name__} {fields}")
        return self.seen(kind, **fields)[0]

    async def committed(self, round_: int) -> RoundCommitted:
        """The commit of this round."""
        return await self.event(RoundCommitted, round=round_)

    async def finished(self) -> RunFinished:
        """The end of the run, once the leader and all learners that were not killed have ended."""
        for program in (self.leader, *self._learners):
            await self._ended(program)
        if (error := self._failure()) is not None:
            raise error
        return self.seen(RunFinished)[-1]

    async def _ended(self, program: Node) -> None:
        await self._wait(lambda: program.ended)
        assert program.ended, f"{program.name} still runs after {self._timeout_s:g} s"

    async def failed(self, program: Node) -> BaseException:
        """What this program fails with."""
        program.excused = True
        await self._ended(program)
        assert program.error is not None, f"{program.name} ended well"
        return program.error

    # --- what came of it -------------------------------------------------------------------

    @property
    def vector(self) -> Vector:
        """The weights (total,) of the last committed round."""
        return self.app.coordinator.state.vector

    @property
    def model_sha256(self) -> str:
        """SHA-256 of `vector`, as in summary.json."""
        return hashlib.sha256(np.ascontiguousarray(self.vector).data).hexdigest()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far; those of all rounds once the run is over."""
        lines = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of a run that is over."""
        loaded: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text(encoding="utf-8"))
        return loaded


async def _learn(options: LearnerOptions, worker: type[Worker]) -> None:
    tools = open_tools(options)
    with alone_in(options.state_dir):
        await LearnerApp(options, tools, open_own(options, tools.task), worker).run()


def _flags(settings: Mapping[str, object]) -> list[str]:
    """The leader's flags for these config keys."""
    texts = {key: "null" if value is None else str(value) for key, value in settings.items()}
    return [flag for key, text in texts.items() for flag in ("--set", f"{key}={text}")]
