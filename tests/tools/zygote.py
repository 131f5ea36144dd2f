"""`python -m tests.tools.zygote FD`: has imported what leader and learner need, and forks one for each request.

Importing torch takes two seconds, a fork some milliseconds. What is forked here is as good as a program of
its own: a session, environment, folder, output and exit code of its own, and no thread or channel from before.
But its interpreter is not taken down at its end: that frees, one by one, all that was imported here, in a third of
a second; threads are joined, exit handlers run and output is written as ever. And a leader's curves are not drawn.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tests.tools.forked import REQUEST_BYTES
from tests.tools.sketch import sketch_curves

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>

PRELOADED = (
    "leader.app",
    "leader.edge.app",
    "learner.app",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numpy.random",
    "scripts.simulate.simulation",
)


def main(connection: socket.socket) -> None:
    """Fork until the other side hangs up; in each fork, run its program and return from here too."""
    preload(PRELOADED)
    sys.modules["leader.app"].draw_curves = sketch_curves  # type: ignore[attr-defined]
    while True:
        message, outputs, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 1)
        if not message:
            return
        request = json.loads(message)
        preload(request["preload"])
        told, tell = os.pipe()
        if (between := os.fork()) == 0:
            if os.fork() != 0:
                os._exit(0)  # so that whoever asked becomes the parent of the other one
            os.setsid()
            os.write(tell, os.getpid().to_bytes(4))
            connection.close()
            os.close(told)
            os.close(tell)
            become(request, outputs[0])
            return
        os.waitpid(between, 0)
        connection.send(os.read(told, 4))
        for number in (told, tell, *outputs):
            os.close(number)


def preload(names: Iterable[str]) -> None:
    """Import what forks need."""
    for name in names:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, (
        "no lock that another thread holds goes into a fork"
    )
    gc.freeze()  # else the first collection in each fork would copy every page


def move_to(host: str) -> None:
    """Into the network namespace of this name; os.setns comes with Python 3.12."""
    with Path("/run/netns", host).open() as namespace:
        failed = ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET)
    assert failed == 0, os.strerror(ctypes.get_errno())


def become(request: dict[str, Any], output: int) -> None:
    """Run `python -m MODULE ARGUMENTS` in this process."""
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    if request["host"]:
        move_to(request["host"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed()  # each program draws its own, should it draw from there
    sys.path[:1] = [request["folder"], *_path_of(request["environment"])]
    module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, int):
            leave(end.code)
        raise


def leave(code: int) -> NoReturn:
    """End this process as the interpreter does, short of freeing what it has."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _path_of(environment: dict[str, str]) -> list[str]:
    """What a fresh interpreter would have at the front of its path."""
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
