"""The section of the aggregate: how updates become one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leader.config.sections.base import MIB, Fraction, Section


class AggregateConfig(Section):
    """How updates become one: the exact weighted mean, or a robust rule."""

    max_abs: float = Field(
        1024.0, ge=2.0**-20, le=2.0**20, description="largest magnitude of a value in an update"
    )
    weighting: Literal["examples", "uniform", "fednova", "qfedavg"] = Field(
        "examples", description="what an update counts in the mean"
    )
    q: float = Field(1.0, ge=0, le=10, description="fairness of qfedavg; 0 = that of uniform weights")
    rule: Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median"] = (
        Field("mean", description="mean, or a rule that some malicious updates can't sway")
    )
    byzantine: int = Field(
        0,
        ge=0,
        le=100_000,
        description="malicious updates that the rule must withstand (trimmed on each side)",
    )
    max_share: Fraction = Field(
        0.0,
        description="most of a mean that one shard, or one learner's own data, may make up; 0 or 1 = off",
    )
    clip_norm: float = Field(0.0, ge=0, description="updates are scaled down to this L2 norm; 0 = off")
    reject_norm: float = Field(0.0, ge=0, description="updates of a larger L2 norm are refused; 0 = off")
    spool_bytes: int = Field(
        16 * MIB, ge=1 * MIB, description="memory in which a rule combines the updates that it keeps on disk"
    )
