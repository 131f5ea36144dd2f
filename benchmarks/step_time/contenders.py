"""The designs of synchronous training that take turns in the step time benchmark, each as the processes to start."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import set_flags
from benchmarks.step_time.gate import PARTY, START_S
from benchmarks.step_time.link import through
from scripts.children import Program
from scripts.demo import free_port

LEARNERS = 2
LEADER_DATA, LEARNER_DATA = "leader.safetensors", "learner.safetensors"
#: A leader that is held at the gate must not take its learners for dead.
_FLOCKSTEP: Mapping[str, object] = {
    "exchange": "gradient",
    "learners": LEARNERS,
    "rounds": 1_000_000,
    "keep_checkpoints": 1,
    "train.schedule": "constant",
    "train.lr": 0.01,
    "evaluation.every": 0,
    "cohort.lease_s": 36000,
    "cohort.deadline_s": 36000,
    "limits.stall_s": 36000,
    "limits.hello_s": 36000,
    "log.level": "debug",
    "log.format": "json",
}


@dataclass(frozen=True)
class Compute:
    """What a step computes."""

    model: str
    batch: int  # examples a learner
    dtype: str
    device: str = "cpu"  # of the learners, all on the same one


@dataclass(frozen=True)
class Stage:
    """Where the programs of a scene run."""

    compute: Compute
    steps: int  # timed, a block
    folder: Path
    links: str | None  # where links are asked for

    def program(self, name: str, module: str, *flags: str) -> Program:
        """`python -m module` called `name`, at the gate under the same name."""
        command = ("env", f"{PARTY}={name}", sys.executable, "-m", module, *flags)
        return Program(name, command, self.folder / f"{name}.log")

    def work(self) -> tuple[str, ...]:
        """The flags of `benchmarks.step_time.work`."""
        flags = {
            "--data": self.folder / LEARNER_DATA,
            "--model": self.compute.model,
            "--batch": self.compute.batch,
            "--dtype": self.compute.dtype,
            "--device": self.compute.device,
        }
        return tuple(str(word) for pair in flags.items() for word in pair)


class Contender(ABC):
    """A design of synchronous training: its processes, and which of them wait at the gate."""

    links = LEARNERS  # that its traffic goes over

    def __init__(self, parties: Sequence[str], orders: Mapping[str, Mapping[str, object]]) -> None:
        self.parties = tuple(parties)
        self.orders = orders  # what a block is told, by the name of what it measures

    @abstractmethod
    def programs(self, stage: Stage) -> list[Program]:
        """The processes to start."""


class Flockstep(Contender):
    """The leader and two learners as they are, with a codec for each direction."""

    NAME = "Flockstep"

    def __init__(self, up: str = "none", down: str = "none") -> None:
        compressed = (up, down) != ("none", "none")
        name = f"{self.NAME}, {up} up, {down} down" if compressed else self.NAME
        super().__init__([f"flockstep-{up}-{down}"], {name: {}})
        self._settings = {"codec.up": up, "codec.down": down} if compressed else {}

    def programs(self, stage: Stage) -> list[Program]:
        """A leader, and learners that dial it over a link each."""
        (party,) = self.parties
        port, compute = free_port(), stage.compute
        settings = {
            **_FLOCKSTEP,
            **self._settings,
            "listen": f"127.0.0.1:{port}",
            "run_dir": stage.folder / party,
            "data.source": stage.folder / LEADER_DATA,
            "model.name": compute.model,
            "train.batch_size": compute.batch,
            "train.dtype": compute.dtype,
            "train.local_steps": stage.steps + 1,
        }
        return [stage.program(party, "benchmarks.step_time.leader", *set_flags(settings))] + [
            stage.program(
                f"{party}-learner-{number}",
                "learner",
                *("--leader", f"127.0.0.1:{through(port, f'learner-{number}', stage.links)}"),
                *("--threads", "1", "--device", compute.device, "--connect-timeout-s", str(START_S)),
            )
            for number in range(LEARNERS)
        ]


class Ddp(Contender):
    """DistributedDataParallel over gloo; with no_sync it computes the same and sends nothing."""

    SYNC, LOCAL = "DDP (gloo)", "compute alone (DDP, no_sync)"
    links = 1  # the ranks have one connection between them

    def __init__(self, steps: int) -> None:
        orders = {self.SYNC: {"steps": steps, "sync": True}, self.LOCAL: {"steps": steps, "sync": False}}
        super().__init__([f"ddp-{rank}" for rank in range(LEARNERS)], orders)

    def programs(self, stage: Stage) -> list[Program]:
        """Two ranks."""
        flags = ("--port", str(free_port()), *stage.work())
        return [
            stage.program(party, "benchmarks.step_time.ddp_rank", "--rank", str(rank), *flags)
            for rank, party in enumerate(self.parties)
        ]


class Naive(Contender):
    """Everything pickled, one unary message each way."""

    NAME = "naive pickled design"

    def __init__(self) -> None:
        super().__init__(["naive-leader"], {self.NAME: {}})

    def programs(self, stage: Stage) -> list[Program]:
        """A leader, and learners that dial it over a link each."""
        port, (party,) = free_port(), self.parties
        flags = ("--port", str(port), "--steps", str(stage.steps), *stage.work())
        return [stage.program(party, "benchmarks.step_time.naive_leader", *flags)] + [
            stage.program(
                f"naive-learner-{number}",
                "benchmarks.step_time.naive_learner",
                *("--port", str(through(port, f"learner-{number}", stage.links)), *stage.work()),
            )
            for number in range(LEARNERS)
        ]
