"""What a round adds up to beside its weights: losses, scores, who took part."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from leader.aggregation.aggregate import mean_loss
from leader.aggregation.base import Contribution, Result
from leader.data.part import Part
from leader.evaluation.federated import FederatedScores
from leader.events import RoundCommitted, Spread
from leader.learners.selection.history import PartReport, fold
from leader.state import PartHistory
from leader.trust.access.limiter import ANY, Quota
from protos import leader_pb2


class Tally:
    """Collected from a round's beginning to its commit; given up with the round."""

    def __init__(self, began: float, traffic: Traffic) -> None:
        self._began = began
        self._before = Traffic(traffic.up, traffic.down)
        self._losses: dict[str, tuple[int, float]] = {}  # by step
        self._learners: set[int] = set()
        self._reports: dict[str, PartReport] = {}
        self._open: dict[tuple[str, int], PartReport] = {}  # in no exchange's sum so far, by part and learner
        self._scores = FederatedScores()

    def counted(
        self,
        learner: int,
        part: Part,
        contribution: Contribution,
        metrics: tuple[leader_pb2.Metric, ...],
        seconds: float,
    ) -> None:
        """An update is in the sum, `seconds` after its work was given out."""
        self._open.pop((part.id, learner), None)
        self._open[part.id, learner] = PartReport(contribution.loss, seconds)
        if metrics:
            self._scores.add(part.id, metrics)

    def reopened(self, kept: Container[str]) -> None:
        """The open exchange begins anew with the updates of these parts: all others may never come again."""
        self._open = {key: report for key, report in self._open.items() if key[0] in kept}

    def applied(self, step: int, result: Result, parts: Container[str]) -> None:
        """An exchange is applied, with the updates of these parts; others were lost, or their sum came to nothing."""
        for part, learner in [key for key in self._open if key[0] in parts]:
            self._learners.add(learner)
            self._reports[part] = self._open.pop((part, learner))
        self._losses[f"{step:08d}"] = (result.examples, result.loss)
        self._scores.summed(result.scores)

    def committed(self, round_: int, lr: float, now: float, traffic: Traffic) -> RoundCommitted:
        """What is told about the round."""
        return RoundCommitted(
            round=round_,
            loss=mean_loss(self._losses.values()),
            seconds=now - self._began,
            bytes_up=traffic.up - self._before.up,
            bytes_down=traffic.down - self._before.down,
            learners=len(self._learners),
            examples=sum(examples for examples, _ in self._losses.values()),
            lr=lr,
        )

    def scores(self) -> Mapping[str, Spread]:
        """What learners scored the round's first model with."""
        return self._scores.spreads()

    def history(
        self, past: Mapping[str, PartHistory], round_: int, *, present: Container[str], absent: int
    ) -> Mapping[str, PartHistory]:
        """The history of parts with this round; see `fold`."""
        return fold(past, round_, self._reports, present=present, absent=absent)


@dataclass
class Traffic:
    """Payload bytes since the run began, framing included."""

    up: int = 0  # learners to leader: updates
    down: int = 0  # leader to learners: model and data
    up_quota: Quota = ANY
    down_quota: Quota = ANY

    def came(self, size: int) -> None:
        """`size` bytes are here."""
        self.up += size
        self.up_quota.count(size)

    def sent(self, size: int) -> None:
        """`size` bytes are written."""
        self.down += size
        self.down_quota.count(size)
