"""The Slurm script in a real Slurm: a job that is cut goes on, and ends in the bits of a run that nothing cut."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clusters import NOISE, TINY
from tests.deploy.slurm import Slurm, slurm_in
from tests.integration.harness import ROOT, Leader, assert_same_bits, cluster_in, succeed

SCRIPT = str(ROOT / "deploy" / "slurm" / "flockstep.sbatch")
ROUNDS = 6
CONFIG = f"""\
rounds: {ROUNDS}
seed: 7
exchange: delta
data: {{source: none, holder: learner}}
model: {{task: "{NOISE}"}}
evaluation: {{every: 0}}
train: {{batch_size: 8, local_steps: 2, dtype: float32}}
web: {{listen: ""}}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm_in(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def undisturbed(folder: Path) -> Leader:
    """A run by the same learners, which nothing cuts."""
    with cluster_in(folder) as cluster:
        leader = cluster.leader({**TINY, "rounds": ROUNDS})
        own = ("--task", NOISE, "--data", "noise-a")
        succeed(leader, *(cluster.learner(leader, "--name", f"learner-{task}", *own) for task in range(2)))
    return leader


class Job:
    """A run as a job, in a folder that holds its config, its output and where it is to fail."""

    def __init__(self, slurm: Slurm, folder: Path, faults: str, *more: str) -> None:
        self.run_dir, self.said = folder / "run", folder / "said"
        self._slurm = slurm
        self._faults = folder / "faults"
        self.fail_at(faults)
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nFLOCKSTEP_FAULTS=$(cat {self._faults}) exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (folder / "run.yaml").write_text(CONFIG)
        flags = ["--parsable", "--cpus-per-task=1", f"--chdir={ROOT}", f"--output={self.said}"]
        arguments = [str(folder / "run.yaml"), str(self.run_dir), "--secure", *more]
        environment = {
            "PYTHON": str(python),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "LISTEN": "127.0.0.1",
            "FLOCKSTEP_LEARNER_TASK": NOISE,
            "FLOCKSTEP_LEARNER_DATA": "noise-a",
            "FLOCKSTEP_LEARNER_THREADS": "1",
        }
        self.number = slurm.ask("sbatch", *flags, SCRIPT, *arguments, **environment).strip()

    def fail_at(self, faults: str) -> None:
        self._faults.write_text(faults)

    def frozen(self) -> psutil.Process:
        """The leader, once it has stopped itself at a fault point."""
        self._slurm.until(lambda: self._leader() is not None, f"frozen:\n{self.output()}")
        leader = self._leader()
        assert leader is not None
        return leader

    def _leader(self) -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if process.info["status"] == psutil.STATUS_STOPPED and str(self.run_dir) in words:
                return process
        return None

    def over(self) -> None:
        """Wait until the job has ended for good."""
        states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        self._slurm.until(lambda: self.field("JobState") in states, f"over:\n{self.output()}")

    def output(self) -> str:
        return self.said.read_text() if self.said.exists() else ""

    def field(self, name: str) -> str:
        return self._slurm.job(self.number, name)


def awaits(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a stopped process has been sent this signal."""
    status = Path(f"/proc/{process.pid}/status").read_text().split("ShdPnd:")[1].split()[0]
    return bool(int(status, 16) >> (number - 1) & 1)


def test_a_job_that_is_requeued_and_whose_time_is_over_ends_in_the_undisturbed_bits(
    slurm: Slurm, tmp_path: Path
) -> None:
    job = Job(slurm, tmp_path, "stop@leader.selecting:3")
    job.frozen()
    job.fail_at("stop@leader.selecting:5")
    slurm.ask("scontrol", "requeue", job.number)  # as a preemption does: SIGTERM, then again from the queue
    slurm.until(lambda: job.field("Restarts") == "1", "requeued")
    leader = job.frozen()
    job.fail_at("")
    slurm.ask("scancel", "--batch", "--signal=USR1", job.number)  # as Slurm does when the time is nearly over
    slurm.until(lambda: awaits(leader, signal.SIGTERM), "told to stop")
    leader.resume()
    job.over()
    said = job.output()
    assert (job.field("JobState"), job.field("Restarts"), job.field("ExitCode")) == (
        "COMPLETED",
        "2",
        "0:0",
    ), said
    assert [f"resumed after round {number}" in said for number in (2, 4)] == [True, True], said
    assert said.count("admitted as learner-") == 2  # each once: identities outlive the cuts
    lines = (job.run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert_same_bits(job.run_dir, undisturbed(tmp_path).run_dir)


def test_a_run_that_can_not_begin_ends_its_job_with_the_leaders_exit_code(
    slurm: Slurm, tmp_path: Path
) -> None:
    job = Job(slurm, tmp_path, "", "--set", "train.lr=fast")
    job.over()
    assert (job.field("JobState"), job.field("ExitCode"), job.field("Restarts")) == ("FAILED", "2:0", "0")
    assert "train.lr is 'fast'; allowed: number above 0" in job.output()
