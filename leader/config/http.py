"""The section of plain HTTP: learners without gRPC, such as phones and shells."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from leader.config.section import Section


class HttpConfig(Section):
    """Where learners without gRPC reach the leader; over TLS, by their JWTs, where the run is secure."""

    listen: str = Field(
        "", description="HOST:PORT for learners that speak plain HTTP (HTTPS in a secure run); empty = none"
    )
    certificate: Path | None = Field(
        None, description="certificate and chain (PEM) to show there, in place of one of the leader's own CA"
    )
    key: Path | None = Field(None, description="its key (PEM)")
