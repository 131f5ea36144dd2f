"""Real leaders and learners over loopback: started as processes, followed by their logs, always ended."""

from __future__ import annotations

import copy
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.clusters import NOISE
from tests.tools.forked import Forked, fork
from tests.tools.ports import closed_address
from tests.tools.proxy import Proxy

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0  # far above what anything here takes on an idle machine
LINE = "line"  # event name of output that is not JSON, such as an error message

Entry = dict[str, Any]  # one line of a program's output
Settings = Mapping[str, object]  # config keys of the leader
Start = Callable[[Sequence[str], Path, Mapping[str, str], int, str], Forked | subprocess.Popen[bytes]]
CAN_FORK = sys.platform == "linux"


class Program:
    """One process in a group of its own; each line of its output is an event.

    It runs `python -m` with the arguments `command`: in an interpreter of its own where it is to be `fresh`,
    else forked from one that has imported torch. The whole output goes to the file `log` too. `faults` is
    where it is to fail, see utils/faults.py; `host` the network namespace that it runs in; `more` are
    variables of its environment.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Path,
        faults: str = "",
        *,
        fresh: bool = False,
        host: str = "",
        more: Mapping[str, str] = {},
    ) -> None:
        self.name = name
        self.seen: list[Entry] = []  # events taken so far
        self._log = log
        self._events: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        ours, its = os.pipe()
        start: Start = _start_fresh if fresh or not CAN_FORK else fork
        try:
            self.process = start(command, ROOT, {**_environment(faults), **more}, its, host)
        finally:
            os.close(its)
        self._reader = threading.Thread(target=self._read, args=[ours], name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self, output: int) -> None:
        with self._log.open("wb") as log, open(output, "rb") as lines:
            for line in lines:
                log.write(line)
                log.flush()
                self._events.put(_entry(line.decode(errors="replace").rstrip("\n")))
        self._events.put(None)

    @property
    def output(self) -> str:
        """Everything that the program has written so far."""
        return self._log.read_text(errors="replace")

    def event(self, name: str, /, **fields: object) -> Entry:
        """The next event of this name with these fields; those before it are passed over.

        Raises AssertionError when it does not come: the program ended, or TIMEOUT_S have passed.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                entry = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(self._story(f"no {name} {fields} within {TIMEOUT_S:g} s")) from None
            if entry is None:
                self._events.put(None)
                raise AssertionError(self._story(f"ended before {name} {fields}"))
            self.seen.append(entry)
            if entry["event"] == name and fields.items() <= entry.items():
                return entry

    def events(self, name: str) -> list[Entry]:
        """All events of this name in the output of a program that has ended."""
        assert self.process.poll() is not None
        entries = (_entry(line) for line in self.output.splitlines())
        return [entry for entry in entries if entry["event"] == name]

    def wait(self) -> int:
        """The exit code, once the program has ended and its output is read."""
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._story(f"still runs after {TIMEOUT_S:g} s")) from None
        self._reader.join(TIMEOUT_S)
        return code

    def succeed(self) -> None:
        """Wait for exit code 0."""
        code = self.wait()
        assert code == 0, self._story(f"ended with exit code {code}")

    def fail(self, code: int) -> str:
        """Wait for this exit code; the error that it ends with, without the word."""
        ended = self.wait()
        assert ended == code, self._story(f"ended with exit code {ended}, not {code}")
        return str(self.events(LINE)[-1]["message"]).removeprefix("error: ")

    def frozen(self) -> None:
        """Wait until it has stopped itself at a fault point; `signal` with SIGCONT lets it go on."""
        state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state is not None
        assert state.si_code == os.CLD_STOPPED, self._story("ended before it froze")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process group at once, whatever state it is in."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(TIMEOUT_S)

    def _story(self, what: str) -> str:
        return f"{self.name} {what}; the end of its output:\n" + "\n".join(self.output.splitlines()[-30:])


class Leader(Program):
    """`python -m leader` with a JSON log."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        log: Path,
        run_dir: Path,
        faults: str = "",
        **more: Any,
    ) -> None:
        flags = ["--log-format", "json", "--set", "log.level=debug", *arguments]
        super().__init__(name, ["leader", *flags], log, faults, **more)
        self.run_dir = run_dir
        self._started: Entry | None = None

    @property
    def started(self) -> Entry:
        """What it says when it listens; waits until it does."""
        if self._started is None:
            self._started = self.event("RunStarted")
        return self._started

    @property
    def address(self) -> str:
        """Where it listens; waits until it does."""
        return str(self.started["address"])

    def copied(self, to: Path) -> Self:
        """This leader, which has ended, with a copy of its run in this folder."""
        other = copy.copy(self)
        other.run_dir = Path(copytree(self.run_dir, to))
        return other

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        loaded: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return loaded


ProxyTo = Callable[[Leader], Proxy]  # the fixture of this name: a running proxy in front of a leader


class Cluster:
    """The programs of one test, with their logs in one folder; each in a `fresh` interpreter if so wished.

    Secure leaders have their CA in `trust` there, and learners their identities in `home`.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder = folder
        self.trust, self.home = folder / "trust", folder / "home"
        self._more: Any = {"fresh": fresh, "more": {"FLOCKSTEP_HOME": str(self.home)}}
        self._programs: list[Program] = []

    def leader(
        self,
        settings: Settings,
        listen: str = "",
        faults: str = "",
        host: str = "",
        *,
        secure: bool = False,
        again: Leader | None = None,
    ) -> Leader:
        """A leader for a new run with these config keys; unless told where, it listens on a port that stays its own.

        With `again` it continues the run of that one, which has ended, by the same command.
        """
        name, log = self._name("leader")
        if secure:
            settings = {"trust.mode": "on", "trust.dir": self.trust, **settings}
        given = [f"{key}={value}" for key, value in settings.items()]
        sets = [argument for text in given for argument in ("--set", text)]
        run_dir = again.run_dir if again else self.folder / f"{name}-run"
        arguments = ["--listen", listen or closed_address(), "--run-dir", str(run_dir), *sets]
        arguments += ["--continue"] if again else []
        leader = Leader(name, arguments, log, run_dir, faults, host=host, **self._more)
        self._programs.append(leader)
        return leader

    def resumed(self, leader: Leader, *flags: str, faults: str = "") -> Leader:
        """A leader that goes on with the run of `leader`, which has ended, at the same address."""
        name, log = self._name("leader")
        resume = ["--resume", str(leader.run_dir), "--listen", leader.address]
        again = Leader(name, [*resume, *flags], log, leader.run_dir, faults, **self._more)
        self._programs.append(again)
        return again

    def resumed_each_time(self, leader: Leader, faults: Iterable[str]) -> Iterator[Leader]:
        """The leaders that go on after `leader` and after each other, as each is killed, with these faults in turn."""
        for fault in faults:
            assert leader.wait() == -signal.SIGKILL
            leader = self.resumed(leader, faults=fault)
            yield leader

    def learner(
        self,
        leader: str | Leader,
        *flags: str,
        faults: str = "",
        module: str = "learner",
        host: str = "",
        fresh: bool = False,
    ) -> Program:
        """A learner for this leader (or address); on the CPU with one thread."""
        address = leader if isinstance(leader, str) else leader.address
        name, log = self._name("learner")
        options = ["--leader", address, "--device", "cpu", "--threads", "1", "--log-format", "json", *flags]
        more = {**self._more, "fresh": True} if fresh else self._more
        learner = Program(name, [module, *options], log, faults, host=host, **more)
        self._programs.append(learner)
        return learner

    def join(
        self,
        leader: str | Leader,
        name: str,
        *flags: str,
        faults: str = "",
        module: str = "learner",
        host: str = "",
        fresh: bool = False,
    ) -> Program:
        """A learner of this name that joins a secure leader (or the one at this address) as its log says."""
        join = ["--name", name, "--join", f"@{self.trust}/join"]
        return self.learner(leader, *join, *flags, faults=faults, module=module, host=host, fresh=fresh)

    def program(self, kind: str, command: list[str], faults: str = "") -> Program:
        """Any other program: a module and its arguments."""
        name, log = self._name(kind)
        program = Program(name, command, log, faults, **self._more)
        self._programs.append(program)
        return program

    def operate(self, *words: str) -> list[str]:
        """What `python -m leader.trust` says to these words about the folder `trust`, line by line."""
        program = self.program("operator", ["leader.trust", *words, "--dir", str(self.trust)])
        program.succeed()
        return program.output.splitlines()

    def token(self, *flags: str) -> str:
        """A new join token."""
        (text,) = [line for line in self.operate("token", *flags) if line.startswith("flk1_")]
        return text

    def train(self, settings: Settings, learners: int = 2, *, secure: bool = False) -> Leader:
        """Run to the end with learners called a, b, ...; the leader that has ended."""
        leader = self.leader({"learners": learners, **settings}, secure=secure)
        names = "abcdefgh"[:learners]
        crew = [self.join(leader, n) if secure else self.learner(leader, "--name", n) for n in names]
        for program in (leader, *crew):
            program.succeed()
        return leader

    def _name(self, kind: str) -> tuple[str, Path]:
        name = f"{kind}-{len(self._programs)}"
        return name, self.folder / f"{name}.log"

    def end(self) -> None:
        """Kill what still runs."""
        for program in self._programs:
            program.kill()


@contextmanager
def cluster_in(folder: Path, *, fresh: bool = False) -> Iterator[Cluster]:
    """A cluster whose programs are all gone afterwards."""
    cluster = Cluster(folder, fresh=fresh)
    try:
        yield cluster
    finally:
        cluster.end()


def noise(name: str) -> list[str]:
    """Flags of a learner in a run of `tests.clusters.TINY`, whose data depend on its name."""
    return ["--task", NOISE, "--data", f"noise-{name}"]


def succeed(*programs: Program) -> None:
    """Wait until all have ended as they should, without a traceback."""
    for program in programs:
        program.succeed()
        assert "Traceback" not in program.output


def lose_the_receipt(leader: Leader, cut: Program, proxy: Proxy) -> None:
    """Cut the line of a learner that stopped at learner.trained:2, once the leader stopped at leader.collected:2."""
    cut.frozen()
    leader.event("UpdateAccepted", round=2)  # of the other: when the leader has both, it stops at once
    cut.signal(signal.SIGCONT)
    leader.frozen()
    proxy.cut()
    cut.event("log", logger="learner.work.worker", level="warning")
    leader.signal(signal.SIGCONT)


def weights(run_dir: Path) -> dict[str, NDArray[np.generic]]:
    """The run's final model: parameters and buffers by name."""
    loaded: dict[str, NDArray[np.generic]] = load_file(run_dir / "model.safetensors")
    return loaded


def assert_same_bits(one: Path, other: Path) -> None:
    """Check that two runs ended in the same model, bit for bit."""
    ours, theirs = weights(one), weights(other)
    assert list(ours) == list(theirs)
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different, f"{one} and {other} differ in {different}"


def _start_fresh(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: int, host: str
) -> subprocess.Popen[bytes]:
    """What `fork` does, with an interpreter of its own."""
    into = ["ip", "netns", "exec", host] if host else []
    return subprocess.Popen(
        [*into, sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _entry(line: str) -> Entry:
    if line.startswith("{"):
        entry: Entry = json.loads(line)
        return entry
    return {"event": LINE, "message": line}


def _environment(faults: str) -> dict[str, str]:
    """Without settings of the person who runs the tests; the leader's arithmetic on one CPU thread, no page."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLOCKSTEP_")}
    more = {"FLOCKSTEP_WEB__LISTEN": "", "FLOCKSTEP_FAULTS": faults}
    return kept | more | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
