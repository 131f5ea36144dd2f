"""One leader or learner process: its output as events, ended in any case."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]  # one line of JSON log; other lines are {"event": "line", "message": ...}
_LINE_BYTES = 1 << 20
_TAIL_LINES = 30


class Program:
    """A process whose lines go to a file and, as entries, to `hear`."""

    def __init__(self, name: str, log: Path, hear: Callable[[Program, Entry], None]) -> None:
        self.name = name
        self.told_to_end = False  # by a signal from here
        self._log = log
        self._hear = hear
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Run to the end; returns the exit code, that of a signal negative. Cancelling this kills it."""
        self._process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            limit=_LINE_BYTES,
        )
        try:
            await self._read(self._process)
            return await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with self._log.open("ab") as log:
            async for line in process.stdout:
                log.write(line)
                log.flush()
                self._hear(self, _entry(line.decode(errors="replace").rstrip("\n")))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self._process is not None and self._process.returncode is None:
            self.told_to_end |= number in (signal.SIGKILL, signal.SIGTERM)
            self._process.send_signal(number)

    @property
    def tail(self) -> str:
        """The end of its output."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def _entry(line: str) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) and "event" in entry else {"event": "line", "message": line}
