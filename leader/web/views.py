"""What a leader's web server shows of its run."""

from __future__ import annotations

from collections.abc import Sequence

from leader.config import RunConfig
from leader.web.metrics import Metrics, Services
from leader.web.page import Page
from leader.web.server import View


def views_of(config: RunConfig, services: Services) -> Sequence[View]:
    """The page, and the metrics."""
    return [Page(config), Metrics(config.web.learner_metrics, services)]
