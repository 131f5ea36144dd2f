from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.step_time.gate import GATE, PARTY, Gate, Ticket


def party(ticket: Ticket, heard: list[Mapping[str, Any]]) -> None:
    try:
        while True:
            heard.append(ticket.wait())
            ticket.report({"steps": [heard[-1]["number"]]})
    except SystemExit:
        ticket.close()


def nothing_failed() -> None:
    return


def test_parties_run_blocks_as_they_are_told_until_the_gate_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, list[Mapping[str, Any]]] = {"a": [], "b": []}
    threads = []
    with Gate() as gate:
        monkeypatch.setenv(GATE, gate.address)
        for name in heard:
            monkeypatch.setenv(PARTY, name)
            threads.append(threading.Thread(target=party, args=(Ticket(), heard[name])))
            threads[-1].start()
        gate.admit(["b", "a"], nothing_failed)
        assert gate.run(["a", "b"], {"number": 1}, nothing_failed) == [{"steps": [1]}] * 2
        assert gate.run(["b"], {"number": 2}, nothing_failed) == [{"steps": [2]}]
    for thread in threads:
        thread.join(20)
    assert heard == {"a": [{"number": 1}], "b": [{"number": 1}, {"number": 2}]}


def test_a_party_that_will_never_come_ends_the_wait() -> None:
    class GoneError(Exception):
        pass

    def check() -> None:
        raise GoneError

    with Gate() as gate, pytest.raises(GoneError):
        gate.admit(["late"], check)


def test_a_party_that_leaves_in_the_middle_of_a_block_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with Gate() as gate:
        monkeypatch.setenv(GATE, gate.address)
        monkeypatch.setenv(PARTY, "ddp-1")
        ticket = Ticket()
        gate.admit(["ddp-1"], nothing_failed)
        ticket.close()
        with pytest.raises(ConnectionError, match="ddp-1 left"):
            gate.run(["ddp-1"], {}, nothing_failed)
