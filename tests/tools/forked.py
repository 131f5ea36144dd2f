"""Starts programs from a process that has imported their modules already; each is a child of this process."""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REQUEST_BYTES = 1 << 17
_ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
#: What the zygote itself runs with: with one thread, it can fork.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow, which scikit-learn imports
}


class Forked:
    """A program that the zygote has forked, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, that of a signal negative; None while the program runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once the program has ended; raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._ended, select.POLLIN)
            if ended.poll(None if timeout is None else timeout * 1000):
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._ended)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if the program still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def fork(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: int,
    host: str = "",
    preload: Sequence[str] = (),
) -> Forked:
    """Run `python -m COMMAND` in a session of its own; what it writes goes to the file descriptor `output`.

    With `host`, it runs in the network namespace of that name. What `preload` names is imported once, before it is
    forked.
    """
    request = {"command": command, "folder": str(folder), "environment": dict(environment), "host": host}
    request |= {"preload": preload}
    zygote = _zygote()
    socket.send_fds(zygote, [json.dumps(request).encode()], [output])
    return Forked(int.from_bytes(zygote.recv(4)))


@functools.cache
def _zygote() -> socket.socket:
    """A connection to this process's own zygote, which ends when this process does."""
    # A program whose parent has ended becomes a child of this process, not of init.
    failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    assert failed == 0, os.strerror(ctypes.get_errno())
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tools.zygote", str(its.fileno())],
            cwd=_ROOT,
            env=os.environ | _ONE_THREAD,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # no terminal: it is to be buffered as that of a program in a pipe
            pass_fds=[its.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
