"""Readings inside a measured process: clock, CPU time and peak memory at each round."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from benchmarks.tcp_bytes import TcpBytes

#: Where the process leaves its readings, one JSON object a line.
PROBE_FILE = "BENCHMARK_PROBE_FILE"
#: Set where readings are to hold everything that a leak would show in.
WHOLE = "BENCHMARK_PROBE_WHOLE"
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Reading:
    """The process at one moment; all but the clock count from its start."""

    clock_s: float
    cpu_s: float
    peak_bytes: int  # largest resident set so far
    resident_bytes: int = 0  # resident set now; this and the rest only where asked for
    descriptors: int = 0  # open files and sockets
    threads: int = 0
    tasks: int = 0  # asyncio tasks
    sent_bytes: int = 0  # on connections that are open, as the kernel counts them
    received_bytes: int = 0

    @classmethod
    def now(cls) -> Reading:
        """The reading of this process."""
        return cls(time.monotonic(), time.process_time(), peak_bytes())

    @classmethod
    def whole(cls) -> Reading:
        """The reading with everything that a leak would show in; to be taken on the event loop."""
        process, counted = psutil.Process(), TcpBytes.now()
        return replace(
            cls.now(),
            resident_bytes=process.memory_info().rss,
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            tasks=len(asyncio.all_tasks()),
            sent_bytes=counted.sent,
            received_bytes=counted.received,
        )


def peak_bytes(status: Path = _STATUS) -> int:
    """The largest resident set that this process has had.

    Linux hands `ru_maxrss` on through fork and exec, so that a small child of a large process reports
    its parent's; VmHWM is the program's own.
    """
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


class Probe:
    """Keeps readings in memory until `write`, so that taking one costs microseconds."""

    def __init__(self, take: Callable[[], Reading] = Reading.now) -> None:
        self._readings: list[Reading] = []
        self._take = take

    def read(self) -> None:
        """Take a reading."""
        self._readings.append(self._take())

    def write(self) -> None:
        """Leave all readings in the file that the environment names."""
        lines = "".join(json.dumps(asdict(reading)) + "\n" for reading in self._readings)
        Path(os.environ[PROBE_FILE]).write_text(lines, encoding="utf-8")


class EventProbe(logging.Handler):
    """Takes a reading when the leader logs that it runs and at each commit."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    def emit(self, record: logging.LogRecord) -> None:
        """Read at the events that count."""
        if getattr(record, "event", "") in ("RunStarted", "RoundCommitted"):
            self._probe.read()


def read_probe(path: Path) -> list[Reading]:
    """The readings that a process left in `path`."""
    return [Reading(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
