"""`python -m benchmarks.simulations.batched_clients`: client updates a second, N as one batch to one at a time.

In turns in one process, without a leader: what `--batch-clients` changes and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.simulations.mlp_task import Mlp, Vectors
from benchmarks.spread import Spread
from learner.training.trainer import Trainer
from learner.training.update import Assignment
from model.device import choose_device
from model.flat import FlatModel
from model.image_classification import ImageClassification, Shard
from protos import leader_pb2
from scripts.simulate.batched_pool import Batched
from scripts.simulate.pool import OneWorker, Pool

TOGETHER = (1, 8, 32)
CLIENTS, EXAMPLES = 32, 32


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a line for each model, number of steps and N."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args(argv)
    device = choose_device(options.device)
    print(f"{torch.__version__} on {device}, {CLIENTS} clients of {EXAMPLES} examples, a batch each step")
    for name, task, plain, data in (
        ("MLP 32-64-10", Mlp(), Mlp(), _vectors()),
        ("ResNet-9, width 8", _images(channels_last=False), _images(channels_last=True), _shards()),
    ):
        for steps in (1, 10):
            batched = _orders(task, data, steps)
            pools: dict[str, tuple[Pool, Sequence[Assignment]]] = {
                "one at a time": (OneWorker(partial(_trainer, task, device)), _orders(plain, data, steps))
            }
            pools |= {f"N={n}": (Batched(n, partial(_trainer, task, device)), batched) for n in TOGETHER}
            _tell(f"{name}, {steps} steps", pools, options.turns)


def _tell(what: str, pools: dict[str, tuple[Pool, Sequence[Assignment]]], turns: int) -> None:
    seconds = [{name: _seconds(*given) for name, given in pools.items()} for _ in range(turns + 1)][1:]
    plain = statistics.median(turn["one at a time"] for turn in seconds)
    print(f"{what}: one at a time {CLIENTS / plain:.0f} updates/s")
    for name in list(pools)[1:]:
        ratio = Spread.of([turn["one at a time"] / turn[name] for turn in seconds])
        print(f"  {name:5} {ratio.median:.2f} times as many ({ratio.lower:.2f} to {ratio.upper:.2f})")


def _seconds(pool: Pool, given: Sequence[Assignment]) -> float:
    """That the updates of all take."""

    async def ask() -> None:
        for training in [pool.train(one) for one in given]:
            await training.update()
            training.cancel()

    began = time.perf_counter()
    asyncio.run(ask())
    return time.perf_counter() - began


def _orders(task: Any, data: Sequence[Any], steps: int) -> list[Assignment]:
    base = FlatModel(task.build_model(0)).vector.numpy()
    return [Assignment(_order(client, steps), base, task, data[client]) for client in range(CLIENTS)]


def _order(seed: int, steps: int) -> leader_pb2.WorkOrder:
    return leader_pb2.WorkOrder(
        exchange="delta",
        seed=seed,
        local_steps=steps,
        batch_size=EXAMPLES,
        schedule=leader_pb2.Schedule(kind="constant", lr=0.05),
        progress_end=1.0,
        momentum=0.9,
        dtype="float32",
    )


def _trainer(task: Any, device: torch.device) -> Trainer:
    return Trainer(FlatModel(task.build_model(0), device))


def _vectors() -> Sequence[Vectors]:
    return [Vectors.of_client(client) for client in range(CLIENTS)]


_images: Callable[..., ImageClassification] = partial(
    ImageClassification, "resnet9-w8", "group", augment=False
)


def _shards() -> Sequence[Shard]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (CLIENTS, EXAMPLES, 3, 32, 32), np.uint8)
    return [Shard(one, random.integers(0, 10, EXAMPLES)) for one in images]


if __name__ == "__main__":
    main()
