"""The sections of what is trained, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from leader.config.reference import Reference
from leader.config.sections.base import Positive, Section


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
        "resnet9-w16", description="model name: resnet9-w16, resnet9-w8/w64, resnet20/56, resnet18/34/50"
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
