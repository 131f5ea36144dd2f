"""The sections of a round: who takes part in it, when it closes, and asynchronous ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from leader.config.requirement import Requirement
from leader.config.sections.base import Fraction, Positive, Section


class CohortConfig(Section):
    """Who takes part in a round, and when it closes."""

    size: int = Field(0, ge=0, description="shards drawn a round; 0 = all")
    policy: Literal["uniform", "by_examples", "round_robin", "oort", "power_of_choice"] = Field(
        "uniform", description="how they are drawn"
    )
    require: str = Field(
        "",
        description="comma-separated wants of a learner: a tag, device=cuda or memory>=GIB, such as site-a,memory>=8",
    )
    candidates: int = Field(
        0, ge=0, description="shards that power_of_choice takes the worst of; 0 = twice the size"
    )
    over_selection: float = Field(
        1.0, ge=1, le=10, description="shards drawn as a multiple of size; the round closes when size are in"
    )
    quorum: Fraction = Field(
        1.0, description="share of the cohort whose updates a round needs at its deadline"
    )
    deadline_s: Positive = Field(3600.0, description="seconds after which an exchange closes on its quorum")
    deadline_k: float = Field(
        0.0,
        ge=0,
        description="learned deadline: median + k x MAD of each learner's past durations; 0 = deadline_s alone",
    )
    deadline_floor_s: Positive = Field(10.0, description="shortest learned deadline, in seconds")
    lease_s: Positive = Field(
        20.0, description="seconds without a sign of life after which a learner counts as lost"
    )
    wait_s: Positive = Field(
        3600.0, description="seconds that the leader waits for enough learners before it stops"
    )

    @field_validator("require")
    @classmethod
    def _requirement(cls, text: str) -> str:
        Requirement.parse(text)
        return text

    @model_validator(mode="after")
    def _enough_candidates(self) -> CohortConfig:
        if self.candidates and self.policy != "power_of_choice":
            raise ValueError("cohort.candidates is for cohort.policy=power_of_choice; leave it 0")
        if 0 < self.candidates < self.size * self.over_selection:
            raise ValueError(
                "cohort.candidates must be no fewer than the shards drawn (size x over_selection)"
            )
        return self

    @model_validator(mode="after")
    def _sensible(self) -> CohortConfig:
        if self.over_selection > 1 and not self.size:
            raise ValueError("cohort.over_selection needs cohort.size, the number of updates to close at")
        if self.deadline_k and self.quorum == 1:
            raise ValueError("a learned deadline closes on a quorum; set cohort.quorum below 1, such as 0.8")
        return self


class BufferConfig(Section):
    """Asynchronous runs (FedBuff): a round is a buffer of updates, whoever sends them."""

    size: int = Field(0, ge=0, le=100_000, description="updates that make a round; 0 = synchronous rounds")
    group: int = Field(
        0,
        ge=0,
        le=10_000,
        description="with secagg.mode: learners whose updates count together, as one masked sum; 0 = size",
    )
    exponent: float = Field(
        0.5, ge=0, le=10, description="an update s rounds old counts (1 + s) to the minus this"
    )
    max_staleness: int = Field(
        20, ge=0, le=10_000, description="rounds that an update may be old; older work is given out anew"
    )
