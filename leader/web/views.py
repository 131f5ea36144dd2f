"""What a leader's web server shows of its run."""

from __future__ import annotations

from collections.abc import Sequence

from leader.config import RunConfig
from leader.storage.metrics_log import Record, read_records
from leader.storage.run_folder import RunFolder
from leader.web.metrics import Metrics, Services
from leader.web.page import Page
from leader.web.run_view import RunView
from leader.web.server import View


def views_of(config: RunConfig, folder: RunFolder, services: Services) -> Sequence[View]:
    """The page, and the metrics."""

    def before(resumed_round: int) -> list[Record]:
        return list(read_records(folder, resumed_round).values())

    page = Page([RunView(config.rounds, before, services)])
    return [page, Metrics(config.web.learner_metrics, services)]
