"""What the name of a metric says: where it comes from, which values are better, how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

Mode = Literal["auto", "max", "min"]
TEST_PREFIX = "test_"  # of metrics on the leader's test split, in results and in `evaluation.metric`
FEDERATED_PREFIX = "federated."  # of the learners' means, in `evaluation.metric`


def on_test_split(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of the test split under the names that results and `evaluation.metric` use."""
    return {f"{TEST_PREFIX}{name}": value for name, value in metrics.items()}


def at_learners(name: str) -> str:
    """What `evaluation.metric` calls the learners' mean of a metric."""
    return f"{FEDERATED_PREFIX}{name}"


def lower_is_better(metric: str, mode: Mode = "auto") -> bool:
    """Whether a smaller value of `metric` is the better one; auto goes by the name: a loss ends in "loss"."""
    return metric.endswith("loss") if mode == "auto" else mode == "min"


def is_better(value: float, best: float | None, *, lower: bool) -> bool:
    """Whether `value` beats the best so far (None: there is none); one that is not finite never does."""
    if not math.isfinite(value) or best is None:
        return math.isfinite(value)
    return value < best if lower else value > best


def headline(names: Iterable[str]) -> str | None:
    """The one metric to show where there is room for one: accuracy, else the first that is no loss, else any."""
    ordered = sorted(names, key=lambda name: (name != "accuracy", lower_is_better(name)))
    return ordered[0] if ordered else None


def show(name: str, value: float) -> str:
    """A value in words: accuracies in per cent."""
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"


def is_share(name: str) -> bool:
    """Whether the metric is a share of 1 that people read in per cent."""
    return name.endswith("accuracy")
