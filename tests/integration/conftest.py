"""What the integration tests share: a cluster for each, and undisturbed runs that several compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clusters import TINY
from tests.integration.harness import Cluster, Leader, ProxyTo, Settings, cluster_in, noise, succeed
from tests.tools.proxy import Proxy


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Starts leaders and learners; none outlives the test."""
    with cluster_in(tmp_path) as started:
        yield started


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Starts each program in an interpreter of its own, as users do."""
    with cluster_in(tmp_path, fresh=True) as started:
        yield started


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Starts what several tests of a module compare with."""
    with cluster_in(tmp_path_factory.mktemp("lasting")) as started:
        yield started


@pytest.fixture
def proxy_to() -> Iterator[ProxyTo]:
    """Starts a proxy in front of a leader; none outlives the test."""
    with ExitStack() as started:

        def start(leader: Leader) -> Proxy:
            host, _, port = leader.address.rpartition(":")
            return started.enter_context(Proxy(host, int(port)))

        yield start


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Seven rounds of two short steps by two learners; an update is 26 chunks."""
    random = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("noise")
    for number in range(64):
        path = folder / f"class-{number % 4}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return {
        "learners": 2,
        "rounds": 7,
        "seed": 7,
        "exchange": "delta",
        "data.source": folder,
        "train.batch_size": 16,
        "train.local_steps": 2,
        "train.dtype": "float32",
        "limits.chunk_bytes": 1 << 16,
    }


@pytest.fixture(scope="session")
def undisturbed(tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """A whole run of `tiny` in which nothing went wrong."""
    with cluster_in(tmp_path_factory.mktemp("tiny")) as cluster:
        return cluster.train(tiny)


@pytest.fixture(scope="session")
def undisturbed_noise(tmp_path_factory: pytest.TempPathFactory) -> Leader:
    """A whole plain run of `TINY` by a and b, who bring their data."""
    with cluster_in(tmp_path_factory.mktemp("noise-run")) as cluster:
        leader = cluster.leader(TINY)
        crew = [cluster.learner(leader, "--name", name, *noise(name)) for name in "ab"]
        succeed(leader, *crew)
        return leader
