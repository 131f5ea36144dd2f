"""`python -m benchmarks.noop_learner`: the learner as it is, but training takes no time."""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import small_model
from benchmarks.probe import Probe
from learner.app import learn
from learner.options import parse
from learner.task import Task
from learner.trainer import Progress, Trainer, Update
from learner.worker import Worker
from model.flat import FlatModel
from model.precision import choose_device
from model.registry import build_model
from protos import leader_pb2
from utils.console import setup_logging
from utils.errors import FlockstepError


class NoOpTrainer(Trainer):
    """Answers every order with the same small update, whatever the weights."""

    def __init__(self, model: FlatModel, probe: Probe) -> None:
        super().__init__(model)
        self._probe = probe
        noise = np.random.default_rng(0).standard_normal(model.layout.total)
        self._values = (1e-3 * noise).astype(np.float32)

    def run(
        self,
        order: leader_pb2.WorkOrder,
        base: NDArray[np.float32],
        task: Task,
        examples: int,
        progress: Progress = lambda done, total, rate: None,
    ) -> Update:
        """The update; the weights `base` have arrived, and are not looked at."""
        self._probe.read()
        return Update(self._values, examples, examples, 1.0, 1e-6)


class NoOpWorker(Worker):
    """A worker whose trainer does nothing."""

    probe = Probe()

    def _make_trainer(self, run: leader_pb2.RunDescription) -> Trainer:
        module = build_model(run.model, classes=run.classes, norm=run.norm)
        return NoOpTrainer(FlatModel(module, self._device), self.probe)


def run() -> int:
    """Learn and leave the readings; returns the exit code."""
    small_model.register()
    options = parse(sys.argv[1:], os.environ)
    setup_logging(options.log_format, options.log_level)
    torch.set_num_threads(1)
    try:
        code = asyncio.run(learn(options, choose_device(options.device), None, NoOpWorker))
    except FlockstepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    NoOpWorker.probe.write()
    return code


if __name__ == "__main__":
    sys.exit(run())
