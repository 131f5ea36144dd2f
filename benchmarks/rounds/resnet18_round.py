"""The ResNet-18 round: 44.7 MB to 2 learners and back, training that takes no time."""

from __future__ import annotations

from benchmarks.fleet import run_fleet
from benchmarks.reference import durable_write, loopback
from benchmarks.result import Figure, Result, Target

LEARNERS = 2


def measure(quick: bool) -> Result:
    """What it costs to move, sum and keep a model of 11 million parameters."""
    repeats = 5 if quick else 30
    run = run_fleet("resnet18", learners=LEARNERS, rounds=repeats, warmup=3)
    write = durable_write(run.checkpoint_bytes, repeats)
    sockets = loopback(run.checkpoint_bytes, LEARNERS, repeats)
    return Result(
        entry="resnet18_round",
        about=f"ResNet-18 to {LEARNERS} learners and back, no-op training, on one machine",
        target=Target("median round", "s", run.round_s.median, 1.0),
        figures=(
            Figure("round", "s", run.round_s),
            Figure("leader CPU a round", "s", run.leader_cpu_s),
            Figure("learner CPU a round", "s", run.learner_cpu_s),
            Figure("reference: durable write of the checkpoint", "s", write),
            Figure("reference: the same bytes over plain sockets", "s", sockets),
        ),
        ratios={
            "round to plain sockets and durable write": run.round_s.median / (write.median + sockets.median)
        },
    )
