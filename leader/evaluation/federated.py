"""Federated evaluation: what learners score on their held-out examples, checked and summed up."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from leader.events import Spread
from leader.metric_names import lower_is_better
from protos import leader_pb2
from utils.errors import LimitError, PayloadError
from utils.secagg.update import Score

_MAX_METRICS = 32
_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
_MAX_ABS = 2.0**128  # a square of less, times any number of examples, is finite


def check_metrics(header: leader_pb2.UpdateHeader | None, most: int) -> tuple[leader_pb2.Metric, ...]:
    """The scores that a learner sent (a plain one: none), each on at most so many examples; 0: none was asked for.

    Raises PayloadError for any that can't be meant, asked for or not, and LimitError for too many examples.
    """
    metrics = () if header is None else tuple(header.metrics)
    if len(metrics) > _MAX_METRICS:
        raise PayloadError(f"update brings {len(metrics)} metrics; at most {_MAX_METRICS} are taken")
    for metric in metrics:
        if not _NAME.fullmatch(metric.name):
            raise PayloadError(
                f"metric name {metric.name[:80]!r} is not 1 to 64 letters, digits, underscores and dots"
            )
        if not abs(metric.value) < _MAX_ABS:
            raise PayloadError(f"metric {metric.name} is {metric.value}; it must be finite and below 2**128")
        if not metric.examples:
            raise PayloadError(f"metric {metric.name} has no examples; leave it out")
        if metric.examples > most > 0:
            raise LimitError(
                f"metric {metric.name} claims {metric.examples} held-out examples, its part has {most} at most"
            )
    names = [metric.name for metric in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PayloadError(f"metric {twice} is there twice; send each name once")
    return metrics if most else ()


class FederatedScores:
    """The scores of one model, by the part of the data that they were taken on."""

    def __init__(self) -> None:
        self._by_part: dict[str, tuple[leader_pb2.Metric, ...]] = {}
        self._sums: dict[str, Score] = {}

    def add(self, part: str, metrics: tuple[leader_pb2.Metric, ...]) -> None:
        """Take in what the holder of `part` scored on it; checked by `check_metrics`."""
        self._by_part[part] = metrics

    def summed(self, scores: Mapping[str, Score]) -> None:
        """Take in scores of which no learner's own is known."""
        self._sums |= scores  # of a later step there are none

    def spreads(self) -> dict[str, Spread]:
        """Each metric over the learners that sent it; the same bits in whatever order they came."""
        if self._sums:
            return {
                name: Spread(mean=score.mean, learners=score.learners, examples=score.examples)
                for name, score in sorted(self._sums.items())
            }
        by_name: dict[str, list[tuple[float, int]]] = {}
        for part in sorted(self._by_part):
            for metric in self._by_part[part]:
                by_name.setdefault(metric.name, []).append((metric.value, metric.examples))
        return {name: _spread(scores, lower_is_better(name)) for name, scores in sorted(by_name.items())}


def _spread(scores: list[tuple[float, int]], highest_is_worst: bool) -> Spread:
    values = [value for value, _ in scores]
    count, examples = len(scores), sum(examples for _, examples in scores)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / count
    worst = sorted(values, reverse=highest_is_worst)[: max(1, count // 10)]
    return Spread(
        mean=math.fsum(value * weight for value, weight in scores) / examples,
        unweighted_mean=mean,
        variance=variance,
        std=math.sqrt(variance),
        worst_decile=math.fsum(worst) / len(worst),
        min=min(values),
        max=max(values),
        learners=count,
        examples=examples,
    )
