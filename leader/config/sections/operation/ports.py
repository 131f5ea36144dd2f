"""The sections of what listens beside the leader's own port: edges, plain HTTP, the live page."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from leader.config.sections.base import Positive, Section


class EdgesConfig(Section):
    """Where edges reach the leader; what goes through them changes no bit of a result."""

    listen: str = Field(
        "",
        description="HOST:PORT at which edges (`python -m leader.edge`) reach the leader; empty = there are none",
    )
    sum_timeout_s: Positive = Field(
        60.0, description="seconds in which an edge must bring the sum of a round, or its updates come again"
    )


class HttpConfig(Section):
    """Where learners without gRPC reach the leader; over TLS, by their JWTs, where the run is secure."""

    listen: str = Field(
        "", description="HOST:PORT for learners that speak plain HTTP (HTTPS in a secure run); empty = none"
    )
    certificate: Path | None = Field(
        None, description="certificate and chain (PEM) to show there, in place of one of the leader's own CA"
    )
    key: Path | None = Field(None, description="its key (PEM)")


class WebConfig(Section):
    """The page and the metrics of a run, for browsers and Prometheus; read-only."""

    listen: str = Field(
        "127.0.0.1:8051",
        description="HOST:PORT of the live page, or the next free port; beyond loopback with a token; empty = none",
    )
    learner_metrics: int = Field(
        100, ge=0, le=10_000, description="most learners that have metrics of their own"
    )
