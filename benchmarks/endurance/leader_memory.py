"""Leader memory: peak resident set with 8 learners that upload ResNet-18 deltas at once, against 2."""

from __future__ import annotations

from benchmarks.fleet import run_fleet
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread

FEW, MANY, QUICK_MANY = 2, 8, 3
_MB = 1e6


def measure(quick: bool) -> Result:
    """How the leader's memory grows with its learners."""
    rounds, learners = (2, QUICK_MANY) if quick else (10, MANY)
    few = run_fleet("resnet18", learners=FEW, rounds=rounds, warmup=1)
    many = run_fleet("resnet18", learners=learners, rounds=rounds, warmup=1)
    ratio = many.leader_peak_bytes / few.leader_peak_bytes
    growth = many.leader_peak_bytes - many.leader_before_bytes
    return Result(
        entry="leader_memory",
        about=f"peak resident set of the leader over {rounds} rounds of ResNet-18 deltas",
        target=Target(f"peak with {learners} learners to peak with {FEW}", "", ratio, 1.5),
        figures=(
            Figure("peak before the first learner", "MB", _size(many.leader_before_bytes)),
            Figure(f"peak with {FEW} learners", "MB", _size(few.leader_peak_bytes)),
            Figure(f"peak with {learners} learners", "MB", _size(many.leader_peak_bytes)),
            Figure(f"round with {learners} learners", "s", many.round_s),
        ),
        ratios={
            "growth while training, in checkpoints": growth / many.checkpoint_bytes,
            "the same ratio without what was there before": growth
            / (few.leader_peak_bytes - few.leader_before_bytes),
        },
    )


def _size(count: int) -> Spread:
    return Spread.of([count / _MB])
