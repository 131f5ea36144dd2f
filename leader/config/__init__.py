"""The configuration of a run: frozen, typed sections, checked before anything starts."""

from leader.config.run import RunConfig
from leader.config.sections.aggregate import AggregateConfig
from leader.config.sections.codec import CodecConfig
from leader.config.sections.cohort import CohortConfig
from leader.config.sections.data import DataConfig
from leader.config.sections.dp import DpConfig
from leader.config.sections.evaluation import EvaluationConfig, LogConfig
from leader.config.sections.limits import LimitsConfig
from leader.config.sections.ports import HttpConfig, WebConfig
from leader.config.sections.secagg import SecaggConfig
from leader.config.sections.services import ServicesConfig
from leader.config.sections.train import ServerConfig, StreamingConfig, TrainConfig
from leader.config.sections.trust import TrustConfig

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
