"""An algorithm of one's own needs its class and a line in the chooser: the trainer runs it like the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from learner.training.algorithms.base import Algorithm
from learner.training.algorithms.choose import choose_algorithms
from learner.training.local_run import LocalRun
from learner.training.local_sgd import Correction, LocalSgd
from learner.training.trainer import Trainer
from learner.training.update import Assignment
from model.flat import FlatModel
from protos import leader_pb2
from utils.vector import Vector


class SignSgd(Algorithm):
    """Steps by the gradient's signs (Bernstein et al. 2018), and how many orders the part has had."""

    def sizes(self) -> Mapping[str, int]:
        return {"orders": 1}

    def corrections(self) -> Sequence[Correction]:
        def to_signs(parameters: Tensor, gradient: Tensor) -> None:
            gradient.sign_()

        return [to_signs]

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        return {"orders": self.run.memory.get("orders", np.zeros(1, np.float32)) + 1}

    def send(self, values: Vector) -> None:
        values *= 2


class Slope:
    """Loss 3 a - 2 b + 0 c, whatever the batch."""

    def build_model(self, seed: int) -> nn.Module:
        return nn.Linear(3, 1, bias=False)

    def make_batch(self, data: object, indices: object, rng: object) -> Tensor:
        return torch.tensor([[3.0, -2.0, 0.0]])

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        loss: Tensor = model(batch).sum()
        return loss

    def metrics(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        return {}


def order_of(steps: int) -> leader_pb2.WorkOrder:
    schedule = leader_pb2.Schedule(kind="constant", lr=0.25)
    return leader_pb2.WorkOrder(
        exchange="delta",
        local_steps=steps,
        batch_size=2,
        schedule=schedule,
        progress_end=1.0,
        dtype="float32",
    )


def sign_sgd(run: LocalRun) -> list[Algorithm]:
    return [SignSgd(run), *choose_algorithms(run)]


def test_the_trainer_runs_an_algorithm_that_it_has_never_heard_of() -> None:
    task = Slope()
    trainer = Trainer(FlatModel(task.build_model(0), torch.device("cpu")), choose=sign_sgd)
    base = np.array([1.0, 1.0, 1.0], np.float32)
    assignment = Assignment(order_of(3), base, task, range(4))  # type: ignore[arg-type]
    update = trainer.run(assignment)
    assert update.values.tolist() == [-1.5, 1.5, 0.0]  # 3 steps of 0.25 by the sign, sent twice as large
    assert update.memory["orders"].tolist() == [1.0]
    again = trainer.run(Assignment(order_of(1), base, task, range(4), memory=update.memory))  # type: ignore[arg-type]
    assert again.values.tolist() == [-0.5, 0.5, 0.0]
    assert again.memory["orders"].tolist() == [2.0]


def test_local_sgd_steps_by_the_gradient_as_corrections_leave_it() -> None:
    model = FlatModel(nn.Linear(2, 1, bias=False), torch.device("cpu"))
    model.load(np.array([1.0, -1.0], np.float32))
    model.zero_gradient()
    model.gradient.copy_(torch.tensor([0.5, 0.25]))
    order = order_of(2)
    order.weight_decay, order.momentum = 0.5, 0.5

    def doubled(parameters: Tensor, gradient: Tensor) -> None:
        gradient.mul_(2)

    sgd = LocalSgd(order, model, [doubled])
    sgd.step(0)  # gradient 1, 0.5, and half of the weights: 1.5, 0
    assert model.vector.tolist() == [1 - 0.25 * 1.5, -1.0]
    assert sgd.velocity is not None
    assert sgd.velocity.tolist() == [1.5, 0.0]
