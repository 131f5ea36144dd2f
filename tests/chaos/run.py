"""One training run: a leader and its learners, each started again whenever it ends before the run does."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from tests.chaos.ledger import ViolationError
from tests.chaos.options import Options
from tests.chaos.plan import LEADER, Fault, Kind
from tests.chaos.process import Entry, Program
from tests.tools.ports import free_port
from tests.tools.proxy import Proxy

_LEAVE_S = 20.0  # for the learners to hear of the end
_TERMINATED = (128 + signal.SIGTERM, -signal.SIGTERM)  # the second before its handler was there
_PATIENCE_S = "3600"  # of a learner without a leader
_LET_GO = re.compile(r"edge edge-(\d+) is let go")
Match = Callable[[int, Entry], bool]  # LEADER or a learner, and what it said


class Witness(Protocol):
    """Hears what happens in a run."""

    def hear(self, target: int, process: str, entry: Entry) -> None:
        """A process of the leader or a learner said something; may raise ViolationError."""

    def struck(self, fault: Fault) -> None:
        """A fault has struck."""


class TrainingRun:
    """The processes of one run; those that `plan` kills at a fault point carry that fault in themselves."""

    def __init__(self, options: Options, name: str, witness: Witness, plan: Iterable[Fault] = ()) -> None:
        self.run_dir = options.folder / name
        self.proxies: dict[int, Proxy] = {}  # by learner
        self.working: set[int] = set()  # learners with an update in a sum since they were started
        self.given_up: set[int] = set()  # edges that whoever is above has let go since they were started
        self.round = 0  # that began last
        self._options = options
        self._logs = options.folder / f"{name}-logs"
        self._witness = witness
        self._port, self._edges_port, self._below_port = free_port(), free_port(), free_port()
        self._programs: dict[int, Program] = {}
        self._numbers = itertools.count(1)
        self._targets: dict[int, int] = {}  # by learner id
        self._waiting: list[tuple[Match, asyncio.Event]] = []
        self._armed: dict[int, list[Fault]] = {}
        for fault in plan:
            if fault.kind in (Kind.KILL_AT, Kind.STOP_AT):
                self._armed.setdefault(fault.target, []).append(fault)

    # --- for whoever injects faults --------------------------------------------------------

    def signal(self, target: int, number: signal.Signals) -> None:
        """Send a signal to the leader or a learner."""
        self._programs[target].signal(number)

    def is_armed(self, fault: Fault) -> bool:
        """Whether this fault of a process's own is still to strike."""
        return fault in self._armed.get(fault.target, ())

    def pass_over(self, fault: Fault) -> None:
        """Have a process that carries this fault start anew, with its next one."""
        self._armed[fault.target].remove(fault)
        self.signal(fault.target, signal.SIGKILL)

    async def expect(self, match: Match, timeout_s: float | None) -> None:
        """Wait for an entry, or until the time is up."""
        waiting = (match, asyncio.Event())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(timeout_s):
                await waiting[1].wait()
        except TimeoutError:
            return
        finally:
            self._waiting.remove(waiting)

    def target_of(self, entry: Entry) -> int | None:
        """The learner that an event of the leader is about."""
        return self._targets.get(entry.get("learner_id", 0))

    # --- from start to end -----------------------------------------------------------------

    async def run(self, *beside: Coroutine[Any, Any, None]) -> None:
        """Train to the last round, with `beside` running along; raises ViolationError.

        However this returns, no process is left.
        """
        self._logs.mkdir(parents=True)
        try:
            async with asyncio.TaskGroup() as group:
                along = [group.create_task(work) for work in beside]
                crew = [
                    group.create_task(self._keep_learner(learner))
                    for learner in range(1, self._options.learners + 1)
                ]
                edges = range(1, self._options.edges + 1)
                crew += [group.create_task(self._keep_edge(edge)) for edge in edges]
                await self._keep_leader()
                for task in along:
                    task.cancel()
                # Who lost the leader just before the end can't hear of it; all others end by themselves.
                _, left = await asyncio.wait(crew, timeout=_LEAVE_S)
                for task in left:
                    task.cancel()
        except* ViolationError as violations:
            raise _first(violations) from None

    async def _keep_leader(self) -> None:
        keys = (*self._options.settings, f"listen=127.0.0.1:{self._port}", f"run_dir={self.run_dir}")
        keys += (f"edges.listen=127.0.0.1:{self._edges_port}",) if self._options.edges else ()
        begin = [argument for key in keys for argument in ("--set", key)]
        while True:
            arguments = ["--resume", str(self.run_dir)] if self.run_dir.exists() else begin
            if await self._run(LEADER, "leader", ["-m", "leader", *arguments]):
                return

    async def _keep_learner(self, learner: int) -> None:
        with Proxy("127.0.0.1", self._port) as proxy:
            self.proxies[learner] = proxy
            name = f"learner-{learner}"
            arguments = ["--leader", proxy.address, "--name", name, "--device", "cpu", "--threads", "1"]
            arguments += ["--connect-timeout-s", _PATIENCE_S, "--reconnect-timeout-s", _PATIENCE_S]
            arguments += ["--log-format", "json", "--log-level", "debug"]
            while not await self._run(learner, name, ["-m", "learner", *arguments]):
                pass

    async def _keep_edge(self, edge: int) -> None:
        above = self._edges_port if edge <= self._options.edges - self._options.below else self._below_port
        arguments = ["--leader", f"127.0.0.1:{above}", "--name", f"edge-{edge}"]
        if edge == 1 and self._options.below:
            arguments += ["--edges-listen", f"127.0.0.1:{self._below_port}"]
        arguments += ["--connect-timeout-s", _PATIENCE_S, "--reconnect-timeout-s", _PATIENCE_S]
        arguments += ["--log-format", "json", "--log-level", "debug"]
        while not await self._run(-edge, f"edge-{edge}", ["-m", "leader.edge", *arguments]):
            pass

    async def _run(self, target: int, name: str, arguments: list[str]) -> bool:
        """Run one process to its end; whether that was the end of the run."""
        process = f"{name}-{next(self._numbers):03d}"
        program = Program(process, self._logs / f"{process}.log", lambda *said: self._hear(target, *said))
        self._programs[target] = program
        self.working.discard(target)
        self.given_up.discard(target)
        code = await program.run([sys.executable, *arguments], self._environment(target))
        self.working.discard(target)
        if code == 0:
            return True
        if code == -signal.SIGKILL and not program.told_to_end and self._armed.get(target):
            self._witness.struck(self._armed[target].pop(0))
        elif not program.told_to_end or code not in (-signal.SIGKILL, *_TERMINATED):
            raise ViolationError(f"{process} ended with exit code {code}:\n{program.tail}")
        return False

    def _environment(self, target: int) -> dict[str, str]:
        """With the fault that this process carries: in its round, or as soon as it can if that has passed."""
        faults = ""
        if armed := self._armed.get(target):
            action = "stop" if armed[0].kind is Kind.STOP_AT else "kill"
            faults = f"{action}@{armed[0].detail}" + (
                f":{armed[0].round}" if armed[0].round >= self.round else ""
            )
        return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "FLOCKSTEP_FAULTS": faults}

    def _hear(self, target: int, program: Program, entry: Entry) -> None:
        match entry["event"] if target == LEADER else "":
            case "RunStarted":
                self._targets.clear()
            case "LearnerJoined":
                self._targets[entry["learner_id"]] = int(entry["name"].rpartition("-")[2])
            case "RoundStarted":
                self.round = entry["round"]
            case "UpdateAccepted":
                self.working.add(self._targets[entry["learner_id"]])
        if let_go := _LET_GO.match(str(entry.get("message", ""))):
            self.given_up.add(-int(let_go[1]))
        self._witness.hear(target, program.name, entry)
        for match_, came in self._waiting:
            if match_(target, entry):
                came.set()


def _first(group: BaseExceptionGroup[ViolationError]) -> ViolationError:
    error: ViolationError | BaseExceptionGroup[ViolationError] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
