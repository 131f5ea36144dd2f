"""The aggregator that a run's config asks for."""

from __future__ import annotations

from pathlib import Path

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Aggregator
from leader.aggregation.exact_sum import Scale
from leader.aggregation.robust import open_robust
from leader.aggregation.weighting import make_weighting
from leader.config import RunConfig
from model.layout import Layout


def open_aggregate(config: RunConfig, layout: Layout, scale: Scale, spool_dir: Path | None) -> Aggregator:
    """An empty aggregate for one exchange: the exact weighted mean, or a robust rule.

    A rule keeps updates in files under `spool_dir`; whoever opens it must close it.
    """
    if config.aggregate.rule == "mean":
        return Aggregate(layout, scale, make_weighting(config))
    return open_robust(config, layout, spool_dir)
