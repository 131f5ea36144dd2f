"""Gradient runs are large-batch SGD: the weights are those of one process that sees all the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leader.storage.checkpoint import load_checkpoint
from model.layout import Layout
from model.registry import build_model
from tests.integration.harness import Cluster, Leader, Settings
from utils.batches import normalise
from utils.datasets import open_dataset
from utils.schedule import Schedule

MODEL = "resnet9-w16"
EXAMPLES = 128
SEED = 3
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Plain torch uses as many threads as each learner does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(cluster: Cluster, data: Path, steps: int, lr: float) -> Leader:
    """A run of three learners that take their whole shards, of different sizes, in each step."""
    settings: Settings = {
        "data.source": data,
        "data.partition": "dirichlet",
        "data.train_examples": EXAMPLES,
        "data.test_examples": 1,
        "evaluation.every": 0,
        "exchange": "gradient",
        "rounds": 1,
        "seed": SEED,
        "model.name": MODEL,
        "model.norm": "group",
        "train.local_steps": steps,
        "train.batch_size": EXAMPLES,
        "train.augment": "none",
        "train.dtype": "float32",
        "train.schedule": "cosine",
        "train.warmup": 0,
        "train.lr": lr,
        "train.momentum": MOMENTUM,
        "train.weight_decay": WEIGHT_DECAY,
    }
    leader = cluster.train(settings, learners=3)
    shards = {update["learner_id"]: update["examples"] for update in leader.events("UpdateAccepted")}
    assert len(set(shards.values())) == 3, f"shards are to have different sizes: {shards}"
    assert sum(shards.values()) == EXAMPLES
    return leader


def trained(leader: Leader) -> NDArray[np.float32]:
    """The run's last weights (P,)."""
    return load_checkpoint(leader.run_dir / "checkpoints" / "round-00000001.safetensors").vector


def single_process(data: Path, steps: int, lr: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (P,) before and after plain torch has trained on all examples at once."""
    train = open_dataset(str(data), data).train.take(EXAMPLES)
    images = normalise(torch.from_numpy(np.array(train.images)), channels_last=True)
    labels = torch.from_numpy(np.array(train.labels))
    model = build_model(MODEL, classes=10, norm="group", seed=SEED)
    assert not Layout.of(model).buffers
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = Schedule("cosine", lr)
    before = flat(model)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule.at(step / steps)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return before, flat(model)


def flat(model: torch.nn.Module) -> NDArray[np.float32]:
    """All parameters, one after the other."""
    vector: NDArray[np.float32] = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    return vector


def test_one_step_of_three_unequal_learners_is_one_step_on_all_the_data(
    cluster: Cluster, real_cifar10: Path
) -> None:
    ours = trained(train(cluster, real_cifar10, steps=1, lr=0.1))
    before, expected = single_process(real_cifar10, steps=1, lr=0.1)
    assert np.abs(expected - before).max() > 0.005  # 5,000 times the tolerance
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_twenty_steps_of_three_unequal_learners_are_twenty_steps_on_all_the_data(
    cluster: Cluster, real_cifar10: Path
) -> None:
    # A higher rate amplifies float32's own rounding: with 0.02, plain torch in one process is 2e-4 away
    # from its own float64 result after these steps.
    ours = trained(train(cluster, real_cifar10, steps=20, lr=0.001))
    before, expected = single_process(real_cifar10, steps=20, lr=0.001)
    assert np.abs(expected - before).max() > 0.001  # 100 times the tolerance
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
