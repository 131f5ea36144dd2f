"""What the integration tests share: a cluster for each, and undisturbed runs that several compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Cluster, Leader, Settings, cluster_in


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Starts leaders and learners; none outlives the test."""
    with cluster_in(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def few(request: pytest.FixtureRequest) -> Settings:
    """Few images in uneven shards: real photos where they are at hand, else drawn shapes."""
    try:
        source = str(request.getfixturevalue("real_cifar10"))
    except pytest.skip.Exception:
        source = "synthetic"
    return {
        "data.source": source,
        "data.partition": "dirichlet",
        "data.train_examples": 128,
        "data.test_examples": 32,
        "evaluation.every": 0,
    }


@pytest.fixture(scope="session")
def delta(few: Settings) -> Settings:
    """Local steps in bfloat16 with batch norm and augmentation, by two learners."""
    train: Settings = {"train.batch_size": 16, "train.local_steps": 3, "train.dtype": "bfloat16"}
    return {**few, **train, "exchange": "delta", "rounds": 5, "seed": 7}


@pytest.fixture(scope="session")
def gradient(few: Settings) -> Settings:
    """Summed steps with batch norm and augmentation, by two learners."""
    train: Settings = {"train.batch_size": 16, "train.local_steps": 3, "train.dtype": "auto"}
    return {**few, **train, "exchange": "gradient", "rounds": 4, "seed": 7, "model.name": "resnet20"}


@pytest.fixture(scope="session")
def undisturbed_delta(delta: Settings, tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """A whole run of `delta` in which nothing went wrong."""
    with cluster_in(tmp_path_factory.mktemp("delta")) as cluster:
        return cluster.train(delta)


@pytest.fixture(scope="session")
def undisturbed_gradient(gradient: Settings, tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """A whole run of `gradient` in which nothing went wrong."""
    with cluster_in(tmp_path_factory.mktemp("gradient")) as cluster:
        return cluster.train(gradient)
