"""Simulated clients a second on the device beside the same on the CPU: an MLP, and a small CNN."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.result import Figure, Result
from benchmarks.simulations.mlp_task import CLASSES, EXAMPLES, Vectors
from benchmarks.spread import Spread
from leader.config import RunConfig
from leader.events import Event, RoundCommitted
from model.task import Examples
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, Options, simulate
from utils.datasets.synthetic import synthetic_shapes

_WARMUP = 3  # rounds
_MLP, _CNN = "MLP 32-64-10", "resnet9-w8"
_TRAIN = {"local_steps": 1, "batch_size": EXAMPLES, "dtype": "float32", "schedule": "constant"}
_MODELS: Mapping[str, Mapping[str, object]] = {
    _MLP: {"task": "benchmarks.simulations.mlp_task:Mlp"},
    _CNN: {"name": _CNN, "norm": "group"},
}
_CPU, _DEVICE, _TOGETHER = "CPU", "device", "device, as one batch"


def measure(job: Job) -> Result:
    """Rounds of one local step each: on the CPU, on the device, and there with all clients of a round as one batch."""
    clients, a_round, rounds = (8, 4, 3) if job.quick else (100, 50, 8)
    ways = {_CPU: Options(), _DEVICE: Options(device=job.device)}
    ways[_TOGETHER] = Options(device=job.device, batch_clients=a_round)
    found = {
        (name, way): rate(name, options, clients, a_round, rounds)
        for name in _MODELS
        for way, options in ways.items()
    }
    return Result(
        entry="clients",
        about=f"{a_round} of {clients} simulated clients a round, one step on {EXAMPLES} examples, float32",
        target=None,
        figures=tuple(Figure(f"{name}, {way}", "clients/s", spread) for (name, way), spread in found.items()),
        ratios={
            f"{name}: {way} to {_CPU}": found[name, way].median / found[name, _CPU].median
            for name in _MODELS
            for way in (_DEVICE, _TOGETHER)
        },
    )


def rate(name: str, options: Options, clients: int, a_round: int, rounds: int) -> Spread:
    """Clients a second from commit to commit."""
    moments: list[float] = []

    def heard(event: Event) -> None:
        if isinstance(event, RoundCommitted):
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        config = RunConfig.model_validate(
            {
                "rounds": _WARMUP + rounds,
                "learners": clients,
                "run_dir": Path(scratch) / "run",
                "model": _MODELS[name],
                "data": {"source": "none", "holder": "learner"},
                "cohort": {"size": a_round},
                "evaluation": {"every": 0},
                "train": _TRAIN,
            }
        )
        hooks = Hooks(own=_own(name, clients), listener=heard)
        simulate(config, options, hooks)
    return Spread.of([a_round / (after - before) for before, after in pairwise(moments[_WARMUP - 1 :])])


def _own(name: str, clients: int) -> Sequence[Brought]:
    """What the clients bring, drawn for each."""
    if name == _MLP:
        parts: list[Examples] = [Vectors.of_client(number) for number in range(clients)]
    else:
        images = synthetic_shapes(clients * EXAMPLES, 1).train
        parts = [images.select(np.arange(EXAMPLES) + number * EXAMPLES) for number in range(clients)]
    return [
        Brought(own, leader_pb2.OwnData(examples=EXAMPLES, classes=CLASSES, fingerprint=f"client-{number}"))
        for number, own in enumerate(parts)
    ]
