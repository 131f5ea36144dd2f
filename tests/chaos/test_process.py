"""A program of a chaos run: its lines become entries, and it never outlives the run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.chaos.process import Entry, Program

SPEAKER = """
import os
print('{"event": "Spoke", "round": 3}', flush=True)
print("plain words", os.environ["FLOCKSTEP_FAULTS"], flush=True)
print("[1]", flush=True)
"""
SLEEPER = """
import os, threading
print('{"event": "Sleeps", "pid": %d}' % os.getpid(), flush=True)
threading.Event().wait()
"""


def test_lines_become_entries_and_are_kept_in_the_log(tmp_path: Path) -> None:
    heard: list[Entry] = []
    program = Program("speaker", tmp_path / "log", lambda _, entry: heard.append(entry))

    code = asyncio.run(program.run([sys.executable, "-c", SPEAKER], {"FLOCKSTEP_FAULTS": "none"}))

    assert code == 0
    assert heard == [
        {"event": "Spoke", "round": 3},
        {"event": "line", "message": "plain words none"},
        {"event": "line", "message": "[1]"},
    ]
    assert program.tail.splitlines()[1] == "plain words none"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_from_here_is_told_from_one_that_came_otherwise(
    tmp_path: Path, number: signal.Signals
) -> None:
    ours = Program("sleeper", tmp_path / "ours", lambda program, _: program.signal(number))
    others = Program("sleeper", tmp_path / "others", lambda _, entry: os.kill(entry["pid"], number))

    command = [sys.executable, "-c", SLEEPER]
    assert asyncio.run(ours.run(command, {})) == asyncio.run(others.run(command, {})) == -number
    assert (ours.told_to_end, others.told_to_end) == (True, False)


def test_a_listener_that_fails_ends_the_program(tmp_path: Path) -> None:
    pids: list[int] = []

    def hear(program: Program, entry: Entry) -> None:
        pids.append(entry["pid"])
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        asyncio.run(Program("sleeper", tmp_path / "log", hear).run([sys.executable, "-c", SLEEPER], {}))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
