"""The sections of a step: how learners make it, what the leader does with their mean, and in which fragments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from leader.config.sections.base import Fraction, Positive, Section


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
    """What the leader does with the mean of the deltas (delta runs), and with the models of the rounds."""

    optimizer: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco"] = Field(
        "fedavg", description="server optimizer"
    )
    lr: Positive = Field(1.0, description="server learning rate; fedavg with 1 adds the mean as it is")
    momentum: float = Field(0.9, ge=0, lt=1, description="server momentum (fedavgm, diloco)")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment (fedadam, fedyogi)")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment (fedadam, fedyogi)")
    tau: Positive = Field(1e-3, description="adaptivity, added to the root of the second moment")
    average: float = Field(
        0.0, ge=0, le=1, description="share of the rounds, the last ones, whose models' mean is the result"
    )


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
