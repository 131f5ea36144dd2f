"""What tests with a cluster in their own process share: a tiny run on noise, and the loop that they run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np

from leader.data.dataset import Data
from scripts.cluster import Cluster, Node
from utils.datasets import Dataset

NOISE = "tests.integration.noise_task:Noise"
TIMEOUT_S = 60.0
_LONGEST_S = (
    240.0  # a scenario; cut off by the runner, gRPC's own tasks would be cancelled while its server lives
)
Settings = Mapping[str, object]
Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]

#: Two learners with 24 points each; every round is two short steps.
TINY: Settings = {
    "learners": 2,
    "rounds": 3,
    "seed": 7,
    "exchange": "delta",
    "data.source": "none",
    "data.holder": "learner",
    "model.task": NOISE,
    "evaluation.every": 0,
    "train.batch_size": 8,
    "train.local_steps": 2,
    "train.dtype": "float32",
}

#: Two learners with a shard of IMAGES each, for clients that only say that they train.
SHARDS: Settings = {
    "learners": 2,
    "rounds": 1,
    "seed": 7,
    "exchange": "delta",
    "data.source": "synthetic",
    "model.name": "resnet9-w8",
    "train.local_steps": 1,
    "evaluation.every": 0,
}

_RANDOM = np.random.default_rng(5)
#: 64 images of noise, in four classes, for a leader to hand out.
IMAGES = Data(
    "noise",
    Dataset(
        "noise", _RANDOM.integers(0, 256, (64, 3, 32, 32), np.uint8), np.arange(64) % 4, ("a", "b", "c", "d")
    ),
    None,
    4,
)


def play(scenario: Scenario, settings: Settings = TINY, **more: Any) -> Cluster:
    """Run `scenario` with a cluster of these settings; nothing may be left on the loop afterwards."""

    async def whole() -> Cluster:
        mine = asyncio.all_tasks()
        async with Cluster(settings, timeout_s=TIMEOUT_S, **more) as cluster, asyncio.timeout(_LONGEST_S):
            await scenario(cluster)
        left = asyncio.all_tasks() - mine
        if left:
            await asyncio.wait(
                left, timeout=10.0
            )  # channels close after their calls, which have five seconds
        stuck = [task for task in left if not task.done()]
        assert not stuck, [(task, task.get_stack()) for task in stuck]
        return cluster

    return asyncio.run(whole())


def join(cluster: Cluster, name: str, **options: Any) -> Node:
    """A learner with data of its own, which depends on its name."""
    return cluster.learner(name, **{"task": NOISE, "data": f"noise-{name}", **options})


async def one_edge(cluster: Cluster, name: str = "east", **options: Any) -> Node:
    """The first edge, once the leader has it."""
    edge = cluster.edge(name, **options)
    await cluster.until(lambda: len(cluster.app.edges) == 1, "no edge")
    return edge


def leaves(cluster: Cluster, name: str) -> None:
    """The leader lets go of a learner, as when its lease has run out; leases of others last on a slow machine too."""
    workforce = cluster.app.coordinator.workforce
    workforce.leave(next(member for member in workforce if member.name == name), "its lease has run out")


async def train(cluster: Cluster) -> None:
    """All rounds, by learners a, b, ..."""
    for name in "abcdefgh"[: cluster.config.learners]:
        join(cluster, name)
    await cluster.finished()
