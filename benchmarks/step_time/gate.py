"""The gate that contenders wait at, so that a short block of steps of each runs in turn and never two at once.

Harness and processes exchange lines of JSON over a loopback connection: a process says which contender it
is, is told how the next block is to run, and answers what it measured.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

#: HOST:PORT of the harness's gate, and the name under which a process comes there.
GATE = "BENCHMARK_GATE"
PARTY = "BENCHMARK_PARTY"
_LOOK_S = 1.0  # between looks at whether a process that is waited for still runs
START_S = 300.0  # for all processes of a scene
_BLOCK_S = 600.0

Report = Mapping[str, Any]


def steps_of(moments: Sequence[float]) -> list[float]:
    """Seconds of each step but the first, which warms up; `moments` are the block's start and each step's end.

    >>> steps_of([10.0, 13.0, 14.0, 16.0])
    [1.0, 2.0]
    """
    return [after - before for before, after in pairwise(moments[1:])]


class _Wire:
    """Lines of JSON over one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def send(self, message: Report) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None at the end; after TimeoutError it may be called again."""
        while b"\n" not in self._rest:
            data = self._connection.recv(1 << 16)
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return dict(json.loads(line))

    def close(self) -> None:
        self._connection.close()


class Ticket:
    """A process's place at the gate that its environment names."""

    def __init__(self) -> None:
        host, _, port = os.environ[GATE].rpartition(":")
        self._wire = _Wire(socket.create_connection((host, int(port))))
        self._wire.send({"party": os.environ[PARTY]})

    def wait(self) -> dict[str, Any]:
        """How the next block is to run; raises SystemExit when there is none."""
        order = self._wire.receive()
        if order is None:
            raise SystemExit(0)
        return order

    def report(self, report: Report) -> None:
        """Say what the block came to."""
        self._wire.send(report)

    def close(self) -> None:
        """Leave."""
        self._wire.close()


class Gate:
    """The harness's side: admits each party once and runs blocks."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_LOOK_S)
        self._parties: dict[str, _Wire] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for wire in self._parties.values():
            wire.close()

    @property
    def address(self) -> str:
        """HOST:PORT for the environment of the processes."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def admit(self, parties: Sequence[str], check: Callable[[], None]) -> None:
        """Wait until all `parties` are here; `check` raises when one never will be."""
        looks = 0
        while missing := [party for party in parties if party not in self._parties]:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                looks += 1
                check()
                if looks * _LOOK_S > START_S:
                    raise TimeoutError(f"{', '.join(missing)} did not start in {START_S:g} s") from None
                continue
            connection.settimeout(_LOOK_S)
            wire = _Wire(connection)
            if (hello := wire.receive()) is not None:
                self._parties[str(hello["party"])] = wire

    def run(self, parties: Sequence[str], order: Report, check: Callable[[], None]) -> list[Report]:
        """Let one block of `parties` run as `order` says; their reports, in the order of `parties`."""
        for party in parties:
            self._parties[party].send(order)
        return [self._report(party, check) for party in parties]

    def _report(self, party: str, check: Callable[[], None]) -> Report:
        looks = 0
        while looks * _LOOK_S <= _BLOCK_S:
            try:
                report = self._parties[party].receive()
            except TimeoutError:
                looks += 1
                check()
                continue
            if report is None:
                check()
                raise ConnectionError(f"{party} left the gate in the middle of a block; see its log")
            return report
        raise TimeoutError(f"{party} needs more than {_BLOCK_S:g} s for a block; see its log")
