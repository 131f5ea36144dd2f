from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.children import Program, ProgramFailedError, StoppedError, run_together, tail

FOREVER = "import threading; threading.Event().wait()"


def python(name: str, code: str, log: Path | None = None) -> Program:
    return Program(name, (sys.executable, "-c", code), log)


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    """Whatever a test starts ends with it."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


def test_returns_when_all_programs_ended_well(tmp_path: Path) -> None:
    log = tmp_path / "companion.log"
    run_together(python("main", "pass"), [python("companion", "print('done')", log)])
    assert log.read_text() == "done\n"


def test_failing_companion_ends_the_rest_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "companion.log"
    failing = python("companion", "import sys; print('no disk'); sys.exit(7)", log)
    with pytest.raises(ProgramFailedError) as failure:
        run_together(python("main", FOREVER), [failing, python("other", FOREVER)])
    assert str(failure.value) == f"companion failed with exit code 7; the end of {log}:\nno disk"


def test_killed_main_program_is_named_with_its_signal() -> None:
    suicide = python("main", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ProgramFailedError, match=r"^main was ended by SIGKILL$"):
        run_together(suicide, [python("companion", FOREVER)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_all_programs(number: signal.Signals) -> None:
    # The main program signals its parent: the signal surely comes while all are running.
    main = python("main", f"import os; os.kill({os.getpid()}, {int(number)}); {FOREVER}")
    with pytest.raises(StoppedError):
        run_together(main, [python("companion", FOREVER)])


def test_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(log, lines=2) == "line 98\nline 99"
