"""The section of the edges: machines that take uploads in the leader's place and add them up."""

from __future__ import annotations

from pydantic import Field

from leader.config.section import Positive, Section


class EdgesConfig(Section):
    """Where edges reach the leader; what goes through them changes no bit of a result."""

    listen: str = Field(
        "",
        description="HOST:PORT at which edges (`python -m leader.edge`) reach the leader; empty = there are none",
    )
    sum_timeout_s: Positive = Field(
        60.0, description="seconds in which an edge must bring the sum of a round, or its updates come again"
    )
