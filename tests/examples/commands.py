"""The commands of examples/README.md: read from it, and run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration.harness import CAN_FORK, ROOT, TIMEOUT_S
from tests.tools.forked import Forked, fork
from tests.tools.ports import closed_address
from tests.tools.servers import running

README = ROOT / "examples" / "README.md"
ADDRESS = "127.0.0.1:50051"  # where the leader listens unless it is told otherwise
LEADER = "python -m leader"
_PATIENCE_S = 2 * TIMEOUT_S  # programs of other frameworks, several at a time
_LIBRARIES = ("sklearn.datasets", "sklearn.linear_model")  # of most examples; they take more than a second
Process = Forked | subprocess.Popen[bytes]


def commands_in(text: str) -> list[str]:
    """The commands in indented blocks, each on one line with single spaces."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [" ".join(line.split()) for line in lines if re.match(r" {4,}(python|pip) ", line)]


def commands_of(section: str) -> list[str]:
    """Those under a heading of the README, but for `pip install`."""
    _, _, after = README.read_text(encoding="utf-8").partition(f"\n## {section}\n")
    found = commands_in(re.split(r"\n## ", after)[0])
    return [command for command in found if not command.startswith("pip install ")]


def play(section: str, folder: Path) -> Path:
    """Run a section's commands in `folder` to their ends; the folder of the run.

    Those before the leader's run one after the other, it and the learners at once. Only the port differs
    from the README, so that several tests can run at a time. Raises AssertionError where one fails.
    """
    address, run_dir = closed_address(), folder / "run"
    together: list[tuple[str, Process, Path]] = []
    with ExitStack() as started:
        for number, command in enumerate(commands_of(section)):
            words = shlex.split(command.replace(ADDRESS, address))
            assert words[:2] == ["python", "-m"]
            if command.startswith(LEADER):
                words += ["--listen", address, "--run-dir", str(run_dir)]
            log = folder / f"{number}.log"
            process = started.enter_context(_running(words[2:], log, environment(folder)))
            if command.startswith(LEADER) or together:
                together.append((command, process, log))
            else:
                _succeed(command, process, log)
        for command, process, log in together:
            _succeed(command, process, log)
    return run_dir


@contextmanager
def _running(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> Iterator[Process]:
    """`python -m COMMAND` in the folder of its log; where that can be, forked from what has imported torch."""
    if not CAN_FORK:
        with running([sys.executable, "-m", *command], log, variables) as process:
            yield process
        return
    with log.open("wb") as output:
        forked = fork(command, log.parent, variables, output.fileno(), preload=_LIBRARIES)
    try:
        yield forked
    finally:
        if forked.poll() is None:
            os.killpg(forked.pid, signal.SIGKILL)
        forked.wait()


def environment(folder: Path) -> dict[str, str]:
    """Of all programs; what JAX has compiled for one of them or a round, the next ones take from `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLOCKSTEP_")}
    own = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return kept | own


def _succeed(command: str, process: Process, log: Path) -> None:
    try:
        code = process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(
            f"{command}: still runs after {_PATIENCE_S:g} s; it said\n{log.read_text()}"
        ) from None
    assert code == 0, f"{command}: exit code {code}; it said\n{log.read_text()}"
