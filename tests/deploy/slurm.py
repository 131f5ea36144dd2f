"""Slurm on this machine alone: one node, its daemons on loopback, with their files in a folder of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

from tests.tools.needs import need_commands
from tests.tools.ports import closed_address
from tests.tools.servers import running

TIMEOUT_S = 120.0
_PAUSE_S = 0.3
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmctldParameters=enable_configless
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that was requeued waits until its credentials have ended: 5 seconds are the least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=60
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=8
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running Slurm whose commands are given by `ask`; raises AssertionError with its logs where it fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str, **more: str) -> str:
        """What a command of Slurm prints; `more` is for its environment."""
        done = subprocess.run(
            command,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def job(self, number: str, field: str) -> str:
        """A field of a job, such as JobState."""
        words = dict(word.partition("=")[::2] for word in self.ask("scontrol", "show", "job", number).split())
        return words[field]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look until it is so; raises AssertionError where it does not come."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"not {what} within {TIMEOUT_S:g} s\n{self.logs()}"
            threading.Event().wait(_PAUSE_S)

    def logs(self) -> str:
        """The ends of what the daemons have written."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


@contextmanager
def slurm_in(folder: Path) -> Iterator[Slurm]:
    """Slurm with all its files in `folder`, up from when its node is idle to the end of the block."""
    need_commands("munged", "slurmctld", "slurmd", "sbatch", install=".ci/services")
    _lay_out(folder)
    slurm = Slurm(folder)
    with ExitStack() as daemons:

        def start(*command: str) -> None:
            log = folder / f"{command[0]}-said.log"
            daemons.enter_context(running(command, log, slurm.environment, signal.SIGTERM))

        start("munged", "--foreground", "--force", *_munge_flags(folder))
        slurm.until((folder / "munge.socket").is_socket, "munged's socket")
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "one")
        slurm.until(lambda: _node(slurm) == "idle", "an idle node")
        yield slurm


def _lay_out(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    port, node_port = (closed_address().rpartition(":")[2] for _ in range(2))
    host = socket.gethostname().partition(".")[0]
    config = _CONFIG.format(folder=folder, host=host, user=getuser(), port=port, node_port=node_port)
    (folder / "slurm.conf").write_text(config)


def _munge_flags(folder: Path) -> list[str]:
    files = {
        "socket": "munge.socket",
        "key-file": "munge.key",
        "log-file": "munge.log",
        "pid-file": "munge.pid",
    }
    return [f"--{flag}={folder / name}" for flag, name in {**files, "seed-file": "munge.seed"}.items()]


def _node(slurm: Slurm) -> str:
    command = ["sinfo", "--noheader", "--format=%t"]
    said = subprocess.run(command, env=slurm.environment, capture_output=True, text=True, check=False)
    return said.stdout.strip()
