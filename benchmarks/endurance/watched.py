"""A leader that is watched while it runs: its events as they come; and the programs beside it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks.fleet import TOY_DATA, set_flags
from benchmarks.probe import PROBE_FILE
from benchmarks.trust_folder import InTheClear
from scripts.demo import free_port

_PATIENCE_S = 300.0
_ENDED = "the leader ended"
_CROWDS = 4  # processes that sessions are spread over


class Watched:
    """The leader: its address, its process, and what it tells."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.address = address
        self.process = psutil.Process(process.pid)
        self._events: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        # A thread reads, so that the leader's pipe never fills.
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{"):
                entry = json.loads(line)
                self._events.put((entry.get("event", ""), entry["time"]))
        self._events.put((_ENDED, 0.0))

    def wait(self, name: str) -> float:
        """Wall-clock time of the next event of this name; raises RuntimeError if the leader ends before."""
        while True:
            event, moment = self._events.get(timeout=_PATIENCE_S)
            if event == name:
                return moment
            if event == _ENDED:
                raise RuntimeError(f"the leader ended before {name}")

    @property
    def rss(self) -> int:
        """Bytes of its resident set now."""
        return int(self.process.memory_info().rss)


@contextmanager
def watched_leader(folder: Path, way: InTheClear, settings: Mapping[str, object]) -> Iterator[Watched]:
    """A leader with these settings that runs in `folder` and listens; it does not outlive the block."""
    address = f"127.0.0.1:{free_port()}"
    own = {"listen": address, "run_dir": folder / "run", "log.format": "json", "log.level": "debug"}
    command = ("env", f"{PROBE_FILE}={folder / 'probe'}", sys.executable, "-m", "benchmarks.small_leader")
    flags = set_flags({**TOY_DATA, **way.settings, **own, **settings})
    with running((*command, *flags), stderr=subprocess.PIPE) as process:
        leader = Watched(process, address)
        leader.wait("RunStarted")
        yield leader


@contextmanager
def running(command: Sequence[str], **pipes: int) -> Iterator[subprocess.Popen[str]]:
    """A program that does not outlive the block."""
    process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Crowds:
    """Many sessions that are open, in a few processes."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def close(self) -> list[float]:
        """End them; wall-clock times at which their work orders were heard."""
        return [moment for process in self._processes for moment in json.loads(process.communicate()[0])]


@contextmanager
def crowds(address: str, way: InTheClear, sessions: int) -> Iterator[Crowds]:
    """So many registered sessions; raises RuntimeError if they could not be opened."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_crowd(address, way, sessions // _CROWDS + (rest < sessions % _CROWDS)))
            for rest in range(_CROWDS)
        ]
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                raise RuntimeError("a crowd could not open its sessions; see its error above")
        yield Crowds(processes)


@contextmanager
def _crowd(address: str, way: InTheClear, sessions: int) -> Iterator[subprocess.Popen[str]]:
    command = (
        sys.executable,
        "-m",
        "benchmarks.endurance.crowd",
        "--leader",
        address,
        "--sessions",
        str(sessions),
    )
    with running((*command, *way.crowd_flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
