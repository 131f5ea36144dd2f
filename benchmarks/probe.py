"""Readings inside a measured process: clock, CPU time and peak memory at each round."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

#: Where the process leaves its readings, one JSON object a line.
PROBE_FILE = "BENCHMARK_PROBE_FILE"
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Reading:
    """The process at one moment; all but the clock count from its start."""

    clock_s: float
    cpu_s: float
    peak_bytes: int  # largest resident set so far

    @classmethod
    def now(cls) -> Reading:
        """The reading of this process."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        return cls(time.monotonic(), time.process_time(), peak)


class Probe:
    """Keeps readings in memory until `write`, so that taking one costs microseconds."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def read(self) -> None:
        """Take a reading."""
        self._readings.append(Reading.now())

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
