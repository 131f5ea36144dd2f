"""All settings of a run, each checked alone; `RunConfig` checks them together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from leader.config.sections.aggregate import AggregateConfig
from leader.config.sections.base import Section
from leader.config.sections.codec import CodecConfig
from leader.config.sections.cohort import BufferConfig, CohortConfig
from leader.config.sections.data import DataConfig, ModelConfig
from leader.config.sections.dp import DpConfig
from leader.config.sections.evaluation import EvaluationConfig, LogConfig
from leader.config.sections.operation.limits import LimitsConfig
from leader.config.sections.operation.ports import EdgesConfig, HttpConfig, WebConfig
from leader.config.sections.operation.services import ServicesConfig
from leader.config.sections.operation.trust import TrustConfig
from leader.config.sections.secagg import SecaggConfig
from leader.config.sections.train import ServerConfig, StreamingConfig, TrainConfig
from utils.wire.rpc import is_loopback


class RunFields(Section):
    """All settings of a run, each checked alone."""

    rounds: int = Field(10, ge=1, le=10_000_000, description="rounds to commit")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of initial weights, shards, batches and cohorts")
    learners: int = Field(2, ge=1, le=100_000, description="learners to wait for before the first round")
    exchange: Literal["gradient", "delta"] = Field(
        "delta", description="gradient: every step is summed; delta: local steps, then averaged"
    )
    listen: str = Field(
        "127.0.0.1:50051", description="HOST:PORT to listen on; 0.0.0.0:PORT for other machines"
    )
    run_dir: Path | None = Field(None, description="folder for results; default runs/DATE-TIME-MODEL")
    dial_learners: bool = Field(
        True, description="call LearnerService at the address that a learner gives, on its own host"
    )
    dial_hosts: str = Field(
        "",
        description="comma-separated other hosts that may be dialled, as learners write them",
    )
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    server: ServerConfig = ServerConfig()
    codec: CodecConfig = CodecConfig()
    streaming: StreamingConfig = StreamingConfig()
    buffer: BufferConfig = BufferConfig()
    cohort: CohortConfig = CohortConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    aggregate: AggregateConfig = AggregateConfig()
    dp: DpConfig = DpConfig()
    secagg: SecaggConfig = SecaggConfig()
    trust: TrustConfig = TrustConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()
    edges: EdgesConfig = EdgesConfig()
    http: HttpConfig = HttpConfig()
    web: WebConfig = WebConfig()
    services: ServicesConfig = ServicesConfig()

    @property
    def parts_held(self) -> int:
        """Parts that the run begins with, at least."""
        return self.learners if self.data.holder == "learner" else self.data.shards or self.learners

    @property
    def updates_awaited(self) -> int:
        """Updates that a round closes on before its deadline."""
        return self.buffer.size or min(self.cohort.size or self.parts_held, self.parts_held)

    @property
    def updates_summed(self) -> int:
        """Updates in one sum, if all that are asked for come."""
        return self.group_size if self.group_size > 1 else self.updates_awaited

    @property
    def group_size(self) -> int:
        """Learners whose updates count together: more than one in asynchronous runs with masks alone."""
        if not self.buffer.size or self.secagg.mode == "off":
            return 1
        return self.buffer.group or self.buffer.size

    @property
    def summed_scores(self) -> tuple[str, ...]:
        """The learners' scores that come as masked sums alone, by name, in order."""
        scored = self.secagg.mode != "off" and self.evaluation.federated_every
        names = {name.strip() for name in self.secagg.metrics.split(",")} if scored else set()
        return tuple(sorted(names - {""}))

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines may reach `listen`, `edges.listen` or `http.listen`."""
        addresses = (self.listen, self.edges.listen, self.http.listen)
        return not all(is_loopback(address) for address in addresses if address)

    @property
    def secure(self) -> bool:
        """Whether connections are encrypted, and callers known by what they prove."""
        return self.trust.mode == "on" or (self.trust.mode == "auto" and self.beyond_loopback)
