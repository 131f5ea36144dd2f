"""Edges: a round of ResNet-18 through one, beside the same round without; and what a learner more costs the leader."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks.fleet import FleetRun, run_fleet
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread

_FEW, _MANY = 2, 8  # learners


@dataclass
class _Runs:
    """Runs of one kind, by learners."""

    edges: int
    by_learners: dict[int, list[FleetRun]] = field(default_factory=dict)

    def add(self, learners: int, rounds: int) -> None:
        run = run_fleet("resnet18", learners=learners, rounds=rounds, warmup=3, edges=self.edges)
        self.by_learners.setdefault(learners, []).append(run)

    def cpu_s(self, learners: int) -> float:
        """Of the leader, a round."""
        return statistics.median(run.leader_cpu_s.median for run in self.by_learners[learners])

    @property
    def learner_cpu_s(self) -> float:
        """That one learner more takes of the leader, a round."""
        return (self.cpu_s(_MANY) - self.cpu_s(_FEW)) / (_MANY - _FEW)

    def round_s(self) -> Spread:
        return Spread.of([run.round_s.median for run in self.by_learners[_MANY]])


def measure(quick: bool) -> Result:
    """Runs without and with an edge in turns, on one machine, where an edge can't win."""
    turns, rounds = (1, 3) if quick else (3, 10)
    bare, edged = _Runs(0), _Runs(1)
    for turn in range(turns):
        for runs in (bare, edged)[:: -1 if turn % 2 else 1]:
            for learners in (_FEW, _MANY):
                runs.add(learners, rounds)
    return result(bare, edged)


def result(bare: _Runs, edged: _Runs) -> Result:
    """Figures of both, and what is promised of them."""
    slower = edged.round_s().median / bare.round_s().median
    share = max(0.0, edged.learner_cpu_s) / bare.learner_cpu_s
    figures = [
        Figure(f"round of {_MANY} learners, {name}", "s", runs.round_s())
        for name, runs in (("alone", bare), ("one edge", edged))
    ]
    figures += [
        Figure(f"leader CPU a round, {learners} learners, {name}", "s", Spread.of([runs.cpu_s(learners)]))
        for name, runs in (("alone", bare), ("one edge", edged))
        for learners in (_FEW, _MANY)
    ]
    return Result(
        entry="edges",
        about=f"ResNet-18 to {_MANY} learners and back, no-op training, leader, edge and learners on one machine",
        target=Target("round through an edge, to one without", "", slower, 1.2),
        further=(Target("leader CPU of one learner more, to that without edges", "", share, 0.1),),
        figures=tuple(figures),
        ratios={"edge to none": slower, "leader CPU of a learner": share},
    )
