"""One measured run: a leader process of its own, and a crowd of learners whose training takes no time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import clock_s, cpu_s, probed_leader, probed_program
from benchmarks.probe import read_probe
from benchmarks.spread import Spread
from benchmarks.tcp_bytes import TcpBytes
from scripts.children import run_together

#: The learners say that they hold data, so the leader has none, and tests nothing.
_OWN_DATA: Mapping[str, object] = {"data.source": "none", "data.holder": "learner", "evaluation.every": 0}


@dataclass(frozen=True)
class CrowdRun:
    """What the processes of one run were seen to do; the first rounds, which warm up, are left out."""

    learners: int
    round_s: Spread  # from commit to commit
    leader_cpu_s: Spread  # of one round
    crowd_cpu_s: Spread  # of one round, all learners together
    before_bytes: int  # peak resident set of the leader when it began to listen
    peak_bytes: int  # and at its last commit
    up_bytes: int  # of one round, from the leader's counters
    down_bytes: int
    wire_ratio: float  # bytes of the whole run that the kernel counted, to those that the leader did


def run_crowd(model: str, *, learners: int, rounds: int, warmup: int) -> CrowdRun:
    """Train `rounds` + `warmup` rounds of one delta exchange with a crowd.

    Raises ProgramFailedError with the end of the log of a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder = Path(scratch)
        run = {"model.name": model, "rounds": rounds + warmup, "learners": learners}
        leader, address = probed_leader(folder, {**run, **_OWN_DATA})
        crowd = probed_program(
            "crowd", folder, "benchmarks.noop_crowd", "--leader", address, "--learners", str(learners)
        )
        run_together(leader, [crowd])
        first, *commits = read_probe(folder / "leader.probe")
        records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        counted = TcpBytes(**json.loads((folder / "crowd.log").read_text().splitlines()[-1]))
        said = sum(record["bytes_up"] + record["bytes_down"] for record in records)
        return CrowdRun(
            learners=learners,
            round_s=clock_s(commits[warmup:]),
            leader_cpu_s=cpu_s(commits[warmup:]),
            crowd_cpu_s=cpu_s(read_probe(folder / "crowd.probe")[warmup:]),
            before_bytes=first.peak_bytes,
            peak_bytes=commits[-1].peak_bytes,
            up_bytes=records[-1]["bytes_up"],
            down_bytes=records[-1]["bytes_down"],
            wire_ratio=(counted.sent + counted.received) / said,
        )
