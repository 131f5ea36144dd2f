"""The configuration of a run: frozen, typed sections, checked before anything starts."""

from leader.config.dp import DpConfig
from leader.config.http import HttpConfig
from leader.config.limits import LimitsConfig
from leader.config.run import RunConfig
from leader.config.secagg import SecaggConfig
from leader.config.sections import (
    AggregateConfig,
    CodecConfig,
    CohortConfig,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ServerConfig,
    StreamingConfig,
    TrainConfig,
)
from leader.config.services import ServicesConfig
from leader.config.trust import TrustConfig
from leader.config.web import WebConfig

__all__ = [
    "AggregateConfig",
    "CodecConfig",
    "CohortConfig",
    "DataConfig",
    "DpConfig",
    "EvaluationConfig",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "RunConfig",
    "SecaggConfig",
    "ServerConfig",
    "ServicesConfig",
    "StreamingConfig",
    "TrainConfig",
    "TrustConfig",
    "WebConfig",
]
