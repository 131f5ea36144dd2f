"""The section of the live page: where a run can be watched and its metrics read."""

from __future__ import annotations

from pydantic import Field

from leader.config.section import Section


class WebConfig(Section):
    """The page and the metrics of a run, for browsers and Prometheus; read-only."""

    listen: str = Field(
        "127.0.0.1:8051",
        description="HOST:PORT of the live page, or the next free port; beyond loopback with a token; empty = none",
    )
    learner_metrics: int = Field(
        100, ge=0, le=10_000, description="most learners that have metrics of their own"
    )
