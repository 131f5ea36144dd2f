"""The configuration of a run: frozen, typed sections, checked before anything starts."""

from leader.config.run import RunConfig
from leader.config.sections.aggregate import AggregateConfig
from leader.config.sections.codec import CodecConfig
from leader.config.sections.cohort import CohortConfig
from leader.config.sections.data import DataConfig
from leader.config.sections.dp import DpConfig
from leader.config.sections.evaluation import EvaluationConfig, LogConfig
from leader.config.sections.operation.limits import LimitsConfig
from leader.config.sections.operation.ports import HttpConfig, WebConfig
from leader.config.sections.operation.services import ServicesConfig
from leader.config.sections.operation.trust import TrustConfig
from leader.config.sections.secagg import SecaggConfig
from leader.config.sections.train import ServerConfig, StreamingConfig, TrainConfig

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
