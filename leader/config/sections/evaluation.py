"""The sections of what is told of a run: its tests, and what is printed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leader.config.sections.base import Section
from utils.settings.fields import LogFormat, LogLevel


class EvaluationConfig(Section):
    """When the global model is tested."""

    every: int = Field(
        1, ge=0, description="rounds between evaluations on the test split; 0 = only at the end"
    )
    batch_size: int = Field(500, ge=1, description="images a batch")
    holdout: float = Field(
        0.0, ge=0, le=0.9, description="share of each learner's examples kept from training, to test on there"
    )
    federated_every: int = Field(
        0, ge=0, description="rounds between evaluations at the learners, on what they hold out; 0 = never"
    )
    metric: str = Field(
        "test_accuracy",
        description="what target and patience look at; federated.NAME for that of the learners",
    )
    target: float | None = Field(None, description="stop when the metric has reached this")
    patience: int = Field(
        0, ge=0, description="stop after this many evaluations without a better metric; 0 = never"
    )
    mode: Literal["auto", "max", "min"] = Field(
        "auto", description="whether a larger metric is better; auto = min for a loss, else max"
    )


class LogConfig(Section):
    """What is printed."""

    format: LogFormat = "auto"
    level: LogLevel = "info"
