"""`python -m benchmarks.noop_learner`: the learner as it is, but training takes no time."""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np
import torch

from benchmarks import small_model
from benchmarks.probe import Probe
from learner.app import learn, open_own, open_tools
from learner.memory import alone_in
from learner.options import parse
from learner.training.trainer import Trainer
from learner.training.update import Assignment, Progress, Update
from learner.work.workbench import Workbench
from learner.work.worker import Worker
from model.flat import FlatModel
from protos import leader_pb2
from utils.console import setup_logging
from utils.errors import FlockstepError


class NoOpTrainer(Trainer):
    """Answers every order with the same small update, whatever the weights."""

    probe = Probe()

    def __init__(self, model: FlatModel, *, compile_model: bool = False) -> None:
        super().__init__(model, compile_model=compile_model)
        noise = np.random.default_rng(0).standard_normal(model.layout.total)
        self._answer = (1e-3 * noise).astype(np.float32)

    def run(self, assignment: Assignment, progress: Progress = lambda done, total, rate: None) -> Update:
        """The update; the weights have arrived, and are not looked at."""
        self.probe.read()
        examples = len(assignment.examples)
        if assignment.watcher is not None:
            assignment.watcher.begun(examples, 1.0, {})
            for piece in reversed(assignment.watcher.pieces):
                assignment.watcher.piece(piece.number, self._answer[piece.start : piece.stop])
        return Update(self._answer, examples, examples, 1.0, 1e-6)


class NoOpWorker(Worker):
    """A worker whose trainer does nothing."""

    def _make_bench(self, run: leader_pb2.RunDescription) -> Workbench:
        return Workbench(run, self._tools, self._memory, NoOpTrainer)


def run() -> int:
    """Learn and leave the readings; returns the exit code."""
    small_model.register()
    options = parse(sys.argv[1:], os.environ)
    setup_logging(options.log_format, options.log_level)
    torch.set_num_threads(1)
    try:
        tools = open_tools(options)
        with alone_in(options.state_dir):
            code = asyncio.run(learn(options, tools, open_own(options, tools.task), NoOpWorker))
    except FlockstepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    NoOpTrainer.probe.write()
    return code


if __name__ == "__main__":
    sys.exit(run())
