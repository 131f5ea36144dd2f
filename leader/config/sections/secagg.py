"""The section on secure aggregation: what the leader may see of an update."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leader.config.sections.base import Positive, Section


class SecaggConfig(Section):
    """Secure aggregation: updates come masked, and only their sum is ever seen."""

    mode: Literal["off", "masked", "signed"] = Field(
        "off",
        description="masked: learners mask their updates, and the leader learns their sum; signed: their keys are "
        "signed as well, so that a leader that lies about them is refused",
    )
    bits: Literal[16, 32, 64] = Field(
        32,
        description="bits of a masked value; 64: the same weights as without masks, bit for bit; 16: half the bytes "
        "of 32, rounded at random, and what that loses is added to the next update",
    )
    range: Positive = Field(
        8.0,
        description="largest magnitude of a value, with 32 bits; larger ones saturate; with 16, that of the first "
        "round, and then what the values ask for",
    )
    threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the learners beyond which their answers unmask; 0 = two thirds, at least a half",
    )
    metrics: str = Field(
        "accuracy,loss",
        description="scores of learners that come as masked sums, by name, with a comma between, where "
        "evaluation.federated_every asks for any; one beyond 1024 to either side counts as 1024",
    )
    least: int = Field(3, ge=2, le=10_000, description="fewest updates in a sum")
    keys_s: Positive = Field(
        30.0, description="seconds that learners have for their keys, and again for their shares"
    )
    reveal_s: Positive = Field(30.0, description="seconds that learners have to answer what unmasks a sum")
