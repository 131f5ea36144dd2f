"""The section of Kafka: where updates go that edges take, and the run's record for other systems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from leader.config.sections.base import Section
from utils.settings.fields import is_address

_TOPIC = re.compile(r"[A-Za-z0-9._-]{0,128}")


def _addresses(brokers: str) -> str:
    if brokers and not all(map(is_address, brokers.split(","))):
        raise ValueError("it must be HOST:PORT, or several of these with commas between them")
    return brokers


def _topic(name: str) -> str:
    if not _TOPIC.fullmatch(name):
        raise ValueError("it must be at most 128 of letters, digits, '.', '_' and '-'")
    return name


Topic = Annotated[str, AfterValidator(_topic)]


class KafkaConfig(Section):
    """Kafka: updates that are durable once they are acknowledged, and summed by a group of aggregators."""

    brokers: Annotated[str, AfterValidator(_addresses)] = Field(
        "", description="HOST:PORT,... of some of its brokers; empty = edges add updates themselves"
    )
    topic: Topic = Field(
        "model-updates",
        description="topic TOPIC.RUN that edges write updates to; empty = they add them themselves",
    )
    partitions: int = Field(8, ge=1, le=1024, description="partitions of that topic")
    properties: Path | None = Field(
        None, description="file of librdkafka's properties, such as security.protocol=SSL"
    )
    keep_rounds: int = Field(
        0, ge=0, le=10_000, description="rounds whose updates stay there after the next one"
    )
    retention_s: int = Field(
        86_400, ge=60, le=31_536_000, description="seconds after which Kafka deletes what is left"
    )
    events: Topic = Field(
        "", description="topic that gets each row of the run's record as JSON; empty = none does"
    )

    @property
    def carries(self) -> bool:
        """Whether updates go there."""
        return bool(self.brokers and self.topic)
