"""The idle round: 10,000 parameters, training that takes no time, 8 learners."""

from __future__ import annotations

from benchmarks import small_model
from benchmarks.fleet import run_fleet
from benchmarks.reference import durable_write
from benchmarks.result import Figure, Result, Target

LEARNERS, QUICK_LEARNERS = 8, 3


def measure(quick: bool) -> Result:
    """What a round costs when nothing is to be done in it, its checkpoint included."""
    learners = QUICK_LEARNERS if quick else LEARNERS
    run = run_fleet(small_model.NAME, learners=learners, rounds=50 if quick else 500, warmup=20)
    write = durable_write(run.checkpoint_bytes, 50 if quick else 500)
    return Result(
        entry="idle_round",
        about=f"{small_model.PARAMETERS} parameters, no-op training, {learners} learners on one machine",
        target=Target("median round", "ms", run.round_s.median * 1e3, 50.0),
        figures=(
            Figure("round", "ms", run.round_s.scaled(1e3)),
            Figure("leader CPU a round", "ms", run.leader_cpu_s.scaled(1e3)),
            Figure("learner CPU a round", "ms", run.learner_cpu_s.scaled(1e3)),
            Figure("reference: durable write of the checkpoint", "ms", write.scaled(1e3)),
        ),
        ratios={"round to durable write": run.round_s.median / write.median},
    )
