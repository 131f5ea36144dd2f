"""The sections of a run's configuration, each checked alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from leader.config.dp import DpConfig
from leader.config.edges import EdgesConfig
from leader.config.http import HttpConfig
from leader.config.limits import LimitsConfig
from leader.config.reference import Reference
from leader.config.requirement import Requirement
from leader.config.secagg import SecaggConfig
from leader.config.section import MIB, Fraction, Positive, Section
from leader.config.services import ServicesConfig
from leader.config.trust import TrustConfig
from leader.config.web import WebConfig
from utils.settings.fields import LogFormat, LogLevel
from utils.wire.rpc import is_loopback


class DataConfig(Section):
    """What is trained on, and who holds it."""

    source: str = Field(
        "cifar10", description="cifar10, synthetic, none, or a folder with CIFAR-10 or an image tree"
    )
    dir: Path = Field(Path("data"), description="folder that CIFAR-10 is looked for in and downloaded to")
    holder: Literal["leader", "learner"] = Field(
        "leader",
        description="leader: shards are streamed to learners that bring no data; learner: all bring their own",
    )
    partition: Literal["iid", "dirichlet", "classes", "quantity", "groups"] = Field(
        "iid",
        description="how the leader splits its data into shards; classes: few classes each, "
        "quantity: unequal sizes, groups: by folder",
    )
    shards: int = Field(
        0, ge=0, le=100_000, description="shards to split the data into; 0 = one for each learner waited for"
    )
    alpha: Positive = Field(
        0.5, description="Dirichlet concentration of the skew (dirichlet, quantity); small = more skewed"
    )
    classes_per_shard: int = Field(
        2, ge=1, le=100_000, description="label-sorted pieces that make up a shard (classes)"
    )
    max_examples: int = Field(
        1_000_000, ge=1, lt=1 << 40, description="most examples of its own that one learner may bring"
    )
    train_examples: int = Field(0, ge=0, description="use only the first N training examples; 0 = all")
    test_examples: int = Field(0, ge=0, description="use only the first N test examples; 0 = all")


class ModelConfig(Section):
    """What is trained."""

    name: str = Field(
        "resnet9-w16", description="model name: resnet9-w16, resnet9-w8, resnet20/56, resnet18/34/50"
    )
    norm: Literal["batch", "group"] = Field("batch", description="normalisation layers")
    classes: int = Field(
        10, ge=2, le=100_000, description="number of classes where the leader has no data to count them from"
    )
    task: str = Field("", description="a task of your own, as package.module:Name, in place of a model name")
    weights: Path | None = Field(
        None,
        description="safetensors file to start from, or models:/NAME@champion, models:/NAME/3 of a registry; "
        "with model.name '' it alone says what the model is",
    )
    local: str = Field(
        "",
        description="comma-separated patterns of tensors that stay at each learner (FedBN), such as *.norm.*",
    )

    @field_validator("weights")
    @classmethod
    def _reference(cls, weights: Path | None) -> Path | None:
        if Reference.is_one(str(weights)):
            Reference.parse(str(weights))
        return weights


class TrainConfig(Section):
    """How a step is made; in delta runs by each learner, in gradient runs by the leader."""

    batch_size: int = Field(128, ge=1, le=1 << 20, description="examples a batch and learner")
    local_steps: int = Field(
        0,
        ge=0,
        le=1 << 20,
        description="steps a round (gradient) or local steps (delta); 0 = by local_epochs",
    )
    local_epochs: int = Field(
        1, ge=1, le=10_000, description="passes through each shard a round, if local_steps is 0"
    )
    lr: Positive = Field(0.1, description="peak learning rate")
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        "onecycle", description="learning rate over the run"
    )
    warmup: Fraction = Field(
        0.2, description="fraction of the run that the learning rate rises in (cosine, onecycle)"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(True, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the loss")
    augment: Literal["standard", "none"] = Field("standard", description="standard: random crop and flip")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="arithmetic of forward and backward; auto = bfloat16 where the device is fast at it",
    )
    pipeline: bool = Field(
        True,
        description="gradient: pieces travel while backward runs and the others arrive; the result is the same",
    )
    proximal_mu: float = Field(
        0.0, ge=0, le=1e6, description="FedProx: weight of the distance to the global model; 0 = off"
    )
    control_variates: bool = Field(
        False, description="SCAFFOLD: correct local steps for each learner's drift"
    )
    personal_lambda: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Ditto: train a personal model, drawn to the global one by this; 0 = off",
    )

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainConfig:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0; set train.nesterov=false")
        return self


class ServerConfig(Section):
    """What the leader does with the mean of the deltas (delta runs)."""

    optimizer: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco"] = Field(
        "fedavg", description="server optimizer"
    )
    lr: Positive = Field(1.0, description="server learning rate; fedavg with 1 adds the mean as it is")
    momentum: float = Field(0.9, ge=0, lt=1, description="server momentum (fedavgm, diloco)")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment (fedadam, fedyogi)")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment (fedadam, fedyogi)")
    tau: Positive = Field(1e-3, description="adaptivity, added to the root of the second moment")


class CodecConfig(Section):
    """How updates and models are encoded on the wire, for learners that can."""

    up: Literal["none", "bf16", "fp16", "int8", "int4", "topk", "powersgd"] = Field(
        "none", description="codec of updates"
    )
    down: Literal["none", "bf16", "fp16", "int8", "int4", "topk"] = Field(
        "none",
        description="codec of what learners get in place of the model: its change since the version they have",
    )
    fraction: float = Field(0.01, gt=0, le=1, description="share of the values that topk sends")
    warmup: Fraction = Field(
        0.0, description="fraction of the run in which topk's share of an update falls from 1/4 to `fraction`"
    )
    rank: int = Field(2, ge=1, le=256, description="rank of powersgd")
    zstd: bool = Field(
        False, description="compress encoded files further, without loss, where that makes them smaller"
    )
    piece_bytes: int = Field(
        4 * MIB,
        ge=64 << 10,
        le=1 << 30,
        description="float32 bytes of the parameters that are encoded, and in gradient runs exchanged, at once",
    )

    @property
    def up_spec(self) -> str:
        """Spec of the codec of updates, such as "topk:0.01"; empty for none."""
        if self.up == "topk":
            return f"topk:{self.fraction:g}" + (f":{self.warmup:g}" if self.warmup else "")
        if self.up == "powersgd":
            return f"powersgd:{self.rank}"
        return "" if self.up == "none" else self.up

    @property
    def down_spec(self) -> str:
        """Spec of the codec of changes of the model; empty for none."""
        if self.down == "topk":
            return f"topk:{self.fraction:g}"
        return "" if self.down == "none" else self.down


class StreamingConfig(Section):
    """Streaming DiLoCo: the model is exchanged in fragments that take turns (delta runs)."""

    fragments: int = Field(
        0, ge=0, le=64, description="fragments, one a round; 0 = the whole model each round"
    )
    overlap_steps: int = Field(
        0, ge=0, le=1 << 20, description="local steps made before the fragment of the last round is taken in"
    )
    mix: Fraction = Field(
        0.5, description="share of the learner's own weights that stays when a fragment is taken in"
    )


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


class LogConfig(Section):
    """What is printed."""

    format: LogFormat = "auto"
    level: LogLevel = "info"


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
    def beyond_loopback(self) -> bool:
        """Whether other machines may reach `listen`, `edges.listen` or `http.listen`."""
        addresses = (self.listen, self.edges.listen, self.http.listen)
        return not all(is_loopback(address) for address in addresses if address)

    @property
    def secure(self) -> bool:
        """Whether connections are encrypted, and callers known by what they prove."""
        return self.trust.mode == "on" or (self.trust.mode == "auto" and self.beyond_loopback)
