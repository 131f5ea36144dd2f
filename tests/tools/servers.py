"""Servers that tests talk to: started in a folder, waited for by connecting, ended by their process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TIMEOUT_S = 60.0
_PAUSE_S = 0.05  # between two tries to connect


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    end: signal.Signals = signal.SIGKILL,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in the folder of the file `log`, which gets what it says, to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)  # and what it has started itself
        process.wait()


@contextmanager
def serving(command: Sequence[str], port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command`, which listens on this port of loopback, from when it does to the end of the block.

    What it says is in FOLDER/server-PORT.log. Raises AssertionError with the end of that if it doesn't listen.
    """
    log = folder / f"server-{port}.log"
    with running(command, log) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not _listens(port):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PAUSE_S)
            up = process.poll() is None and time.monotonic() < deadline
            assert up, log.read_text(errors="replace")[-3000:]
        yield process


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), TIMEOUT_S):
        return True
    return False
