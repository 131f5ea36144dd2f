"""One measured run: a leader, edges where asked for, and a crowd of learners whose training takes no time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.fleet import clock_s, cpu_s, edge_programs, probed_leader, probed_program
from benchmarks.probe import read_probe
from benchmarks.spread import Spread
from scripts.children import Program, run_together
from scripts.demo import free_port

#: The learners say that they hold data, so the leader has none, and tests nothing.
_OWN_DATA: Mapping[str, object] = {"data.source": "none", "data.holder": "learner", "evaluation.every": 0}


@dataclass(frozen=True)
class CrowdRun:
    """What the processes of one run were seen to do; the first rounds, which warm up, are left out."""

    learners: int
    round_s: Spread  # from commit to commit
    leader_cpu_s: Spread  # of one round
    crowd_cpu_s: Spread  # of one round, all learners of one process together
    before_bytes: int  # peak resident set of the leader when it began to listen
    peak_bytes: int  # and at its last commit
    up_bytes: int  # of one round, from the leader's counters
    down_bytes: int
    received_bytes: float  # of one round, as the kernel counts them at the leader
    sent_bytes: float
    wire_ratio: float  # these, to what the leader's counters say


def run_crowd(
    model: str, *, learners: int, rounds: int, warmup: int, edges: int = 0, processes: int = 1
) -> CrowdRun:
    """Train `rounds` + `warmup` rounds of one delta exchange with a crowd, through edges where there are any.

    The crowd is spread over `processes`, the first of which is measured.

    Raises ProgramFailedError with the end of the log of a process that failed.
    """
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        folder = Path(scratch)
        above = f"127.0.0.1:{free_port()}"
        run = {
            "model.name": model,
            "rounds": rounds + warmup,
            "learners": learners,
            "limits.max_learners": max(1000, learners),
            "edges.listen": above if edges else "",
        }
        leader, address = probed_leader(folder, {**run, **_OWN_DATA}, whole=True)
        crowd = _crowd(folder, address, learners, processes)
        run_together(leader, [*edge_programs(folder, above, edges), *crowd])
        first, *commits = read_probe(folder / "leader.probe")
        records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        begin, end = commits[warmup], commits[-1]
        counted = end.received_bytes - begin.received_bytes, end.sent_bytes - begin.sent_bytes
        said = sum(record["bytes_up"] + record["bytes_down"] for record in records[warmup + 1 :])
        return CrowdRun(
            learners=learners,
            round_s=clock_s(commits[warmup:]),
            leader_cpu_s=cpu_s(commits[warmup:]),
            crowd_cpu_s=cpu_s(read_probe(folder / f"{crowd[0].name}.probe")[warmup:]),
            before_bytes=first.peak_bytes,
            peak_bytes=end.peak_bytes,
            up_bytes=records[-1]["bytes_up"],
            down_bytes=records[-1]["bytes_down"],
            received_bytes=counted[0] / (rounds - 1),
            sent_bytes=counted[1] / (rounds - 1),
            wire_ratio=sum(counted) / said,
        )


def _crowd(folder: Path, leader: str, learners: int, processes: int) -> list[Program]:
    """All learners, in so many processes."""
    first = [learners * number // processes for number in range(processes + 1)]
    return [
        probed_program(
            f"crowd-{begin}",
            folder,
            "benchmarks.scaling.noop_crowd",
            *("--leader", leader, "--first", str(begin), "--learners", str(end - begin)),
        )
        for begin, end in pairwise(first)
    ]
