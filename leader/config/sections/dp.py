"""The section of differential privacy: what may become known of one learner, over the whole run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leader.config.sections.base import Positive, Section
from utils.dp.gaussian import least_noise

_LEAST_NOISE = 0.01  # that noise_multiplier = 0 comes to, however large epsilon is


class DpConfig(Section):
    """Differential privacy: each learner's update is clipped, and noise hides it in what the run makes of them."""

    mode: Literal["off", "central", "distributed", "examples"] = Field(
        "off",
        description="central: the leader, which is trusted, clips updates and adds noise to their sum; "
        "distributed: each learner clips its own and adds a share of the noise, under masks; "
        "examples: each learner hides each of its examples in its own training, and keeps the ledger",
    )
    clip: Positive = Field(1.0, description="L2 norm that updates are clipped to; with a quantile, at first")
    clip_quantile: float = Field(
        0.0, ge=0, lt=1, description="share of the updates that the clip is to leave whole; 0 = a fixed clip"
    )
    clip_rate: float = Field(0.2, gt=0, le=2, description="how fast the clip follows that share")
    noise_multiplier: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="noise's standard deviation over the clip; 0 = the least that pays all rounds; distributed: in "
        "the smallest sum that a round may have",
    )
    epsilon: Positive = Field(
        8.0, le=1e5, description="budget of each learner over the run; nothing beyond it"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="chance that the budget does not hold; far below 1/learners"
    )
    sampling: Literal["none", "poisson"] = Field(
        "none", description="none: learners pay for the rounds that they are in; poisson is not there yet"
    )

    colluding: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the learners whose noise is not counted, as they may tell it to the leader (distributed)",
    )

    @property
    def tells_clipping(self) -> bool:
        """Whether an update of a learner has one more value, of whether it was clipped."""
        return self.mode == "distributed" and self.clip_quantile > 0

    @property
    def on(self) -> bool:
        """Whether what is made of updates is private."""
        return self.mode != "off"

    def noise(self, releases: int) -> float:
        """The noise multiplier of a run in which `releases` of each part are to be paid."""
        if self.noise_multiplier:
            return self.noise_multiplier
        return max(_LEAST_NOISE, least_noise(self.epsilon, self.delta, releases))
