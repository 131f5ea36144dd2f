"""The commands of examples/README.md: read from it, and run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.integration.harness import ROOT, TIMEOUT_S, closed_address
from tests.tools.servers import running

README = ROOT / "examples" / "README.md"
ADDRESS = "127.0.0.1:50051"  # where the leader listens unless it is told otherwise
LEADER = "python -m leader"
_PATIENCE_S = 2 * TIMEOUT_S  # programs of other frameworks, several at a time


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
    together: list[tuple[str, subprocess.Popen[bytes], Path]] = []
    with ExitStack() as started:
        for number, command in enumerate(commands_of(section)):
            words = shlex.split(command.replace(ADDRESS, address))
            assert words[0] == "python"
            if command.startswith(LEADER):
                words += ["--listen", address, "--run-dir", str(run_dir)]
            log = folder / f"{number}.log"
            process = started.enter_context(running([sys.executable, *words[1:]], log, _environment()))
            if command.startswith(LEADER) or together:
                together.append((command, process, log))
            else:
                _succeed(command, process, log)
        for command, process, log in together:
            _succeed(command, process, log)
    return run_dir


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLOCKSTEP_")}
    own = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    return kept | own


def _succeed(command: str, process: subprocess.Popen[bytes], log: Path) -> None:
    try:
        code = process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(
            f"{command}: still runs after {_PATIENCE_S:g} s; it said\n{log.read_text()}"
        ) from None
    assert code == 0, f"{command}: exit code {code}; it said\n{log.read_text()}"
