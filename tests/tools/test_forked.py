"""What is forked from the zygote is as good as a program that was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.forked import Forked, fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each program is started afresh")

SAYS = """
import json, os, random, sys, threading
import numpy
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "path": sys.path[0], "environment": dict(os.environ),
    "session": os.getsid(0), "pid": os.getpid(), "threads": threading.active_count(),
    "files": sorted(os.listdir("/proc/self/fd")), "drawn": [random.random(), numpy.random.random()],
    "torch": "torch" in sys.modules,
}))
sys.exit(int(sys.argv[1]))
"""
ENDS = """
import atexit, sys, threading
atexit.register(print, "at the end")
threading.Timer(0.1, print, ["by a thread"]).start()
if "badly" in sys.argv:
    raise LookupError("badly")
if "by a code" in sys.argv:
    sys.exit(3)
"""
WAITS = "import threading; print('here', flush=True); threading.Event().wait()"


@contextmanager
def forked(folder: Path, code: str, *arguments: str) -> Iterator[tuple[Forked, int]]:
    """A program with this code, and where its output comes; gone afterwards."""
    (folder / "said.py").write_text(code)
    ours, its = os.pipe()
    program = fork(["said", *arguments], folder, {"ONLY": "this"}, its)
    os.close(its)
    try:
        yield program, ours
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait(60)
        os.close(ours)


def output(of: int) -> str:
    """Everything up to the end."""
    return b"".join(iter(lambda: os.read(of, 1 << 16), b"")).decode()


def test_it_has_arguments_folder_environment_session_and_exit_code_of_its_own(tmp_path: Path) -> None:
    told = []
    for code in (0, 7):
        with forked(tmp_path, SAYS, str(code), "more") as (program, out):
            told.append(json.loads(output(out)))
            assert program.wait(60) == program.poll() == program.returncode == code
        said = told[-1]
        assert said["arguments"] == [str(code), "more"]
        assert said["folder"] == said["path"] == str(tmp_path)
        assert said["environment"] == {"ONLY": "this"}
        assert said["session"] == said["pid"] == program.pid
        assert (said["threads"], said["torch"]) == (1, True)
        assert said["files"] == ["0", "1", "2", "3"]  # the last one lists them
    assert set(told[0]["drawn"]).isdisjoint(told[1]["drawn"])


@pytest.mark.parametrize(("how", "code"), [("well", 0), ("badly", 1), ("by a code", 3)])
def test_it_ends_as_an_interpreter_does(tmp_path: Path, how: str, code: int) -> None:
    with forked(tmp_path, ENDS, how) as (program, out):
        said = output(out).splitlines()
        assert program.wait(60) == code
    assert said[-1] == "at the end"
    assert "by a thread" in said
    assert ("LookupError: badly" in said) == (code == 1)


def test_it_is_stopped_and_killed_by_its_id_and_leaves_no_zombie(tmp_path: Path) -> None:
    with forked(tmp_path, WAITS) as (program, out):
        assert os.read(out, 4) == b"here"
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0)
        program.send_signal(signal.SIGSTOP)
        stopped = os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WEXITED)
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED
        program.send_signal(signal.SIGKILL)
        assert program.wait(60) == -signal.SIGKILL
        assert not Path(f"/proc/{program.pid}").exists()
        program.send_signal(signal.SIGKILL)  # harms nobody who has its number now
