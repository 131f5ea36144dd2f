"""Both halves of SCAFFOLD against the whole of the paper's algorithm 1, in float64 and without Flockstep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from leader.optimizers.base import Step
from leader.optimizers.scaffold import CONTROL, Scaffold
from leader.optimizers.sgd import FedAvg
from learner.memory import Memory
from learner.training.trainer import Trainer
from learner.training.update import Assignment
from model.flat import FlatModel
from protos import leader_pb2
from tests.learner.training.algorithms.regression import Doubles, Points, Regression, points
from utils.batches import ShardSampler

FEATURES, STEPS, LR, BATCH, SEED = 5, 4, 0.05, 3, 11
SIZES = (6, 9, 15)  # examples of each client


def client(number: int) -> Points:
    return points(number, SIZES[number], FEATURES, 2 * number)


@dataclass(frozen=True)
class Momentum:
    """Of the learners' SGD; plain SGD if not said."""

    rho: float = 0.0
    nesterov: bool = False

    def shares(self) -> Doubles:
        """(STEPS,): by how much each step's gradient moves the model by the last step, at a rate of one."""
        moved = np.zeros((STEPS, STEPS))  # of step k by gradient j
        for k in range(STEPS):
            for j in range(k + 1):
                moved[k, j] = self.rho ** (k - j + self.nesterov)
            moved[k, k] += self.nesterov
        shares: Doubles = moved.sum(0)
        return shares


def order(number: int, round_: int, momentum: Momentum) -> leader_pb2.WorkOrder:
    return leader_pb2.WorkOrder(
        round=round_,
        seed=SEED + number,
        exchange="delta",
        first_batch=(round_ - 1) * STEPS,
        local_steps=STEPS,
        batch_size=BATCH,
        schedule=leader_pb2.Schedule(kind="constant", lr=LR),
        momentum=momentum.rho,
        nesterov=momentum.nesterov,
        dtype="float32",
        control_variates=True,
    )


def algorithm_1(cohorts: list[list[int]], momentum: Momentum) -> tuple[Doubles, Doubles, list[Doubles]]:
    """x, c and all c_i after a round with each cohort; the mean is weighted by examples.

    A variate is the mean of the steps' gradients, each as much as it moves the model: with plain SGD option II.
    """
    shares = momentum.shares()
    x, c = np.zeros(FEATURES), np.zeros(FEATURES)
    variates = [np.zeros(FEATURES) for _ in SIZES]
    for round_, cohort in enumerate(cohorts):
        weights = np.array([SIZES[number] for number in cohort]) / sum(SIZES[n] for n in cohort)
        moved, turned = np.zeros(FEATURES), np.zeros(FEATURES)
        for number, weight in zip(cohort, weights, strict=True):
            data, y, velocity, gradients = client(number), x.copy(), np.zeros(FEATURES), []
            sampler = ShardSampler(len(data), BATCH, SEED + number)
            for step in range(STEPS):
                chosen = sampler.indices(round_ * STEPS + step)
                a, b = data.x[chosen], data.y[chosen]
                gradients.append(2 * a.T @ (a @ y - b) / len(chosen))
                corrected = gradients[-1] - variates[number] + c
                velocity = momentum.rho * velocity + corrected
                y = y - LR * (corrected + momentum.rho * velocity if momentum.nesterov else velocity)
            plus = shares @ gradients / shares.sum()
            moved += weight * (y - x)
            turned += weight * (plus - variates[number])
            variates[number] = plus
        x = x + moved
        c = c + sum(SIZES[n] for n in cohort) / sum(SIZES) * turned
    return x, c, variates


def flockstep(cohorts: list[list[int]], momentum: Momentum) -> tuple[Doubles, Doubles, list[Doubles]]:
    """The same by trainer, memory and server optimizer."""
    task, optimizer, memory = Regression(FEATURES, bias=False), Scaffold(FedAvg()), Memory()
    memory.begin("run")
    trainer = Trainer(FlatModel(task.build_model(0)))
    x, state = trainer.model.snapshot().numpy(), optimizer.init(FEATURES)
    for round_, cohort in enumerate(cohorts, start=1):
        total, mean = sum(SIZES[number] for number in cohort), np.zeros(FEATURES)
        for number in cohort:
            part, data = str(number), client(number)
            kept = memory.of(part, round_)
            update = trainer.run(
                Assignment(order(number, round_, momentum), x, task, data, state[CONTROL], kept)
            )
            memory.stage(part, round_, update.memory)
            memory.counted(part)
            mean += update.examples / total * update.values
        step = Step(lr=0.0, local_lr=LR * float(momentum.shares().sum()), participation=total / sum(SIZES))
        state, x = optimizer.apply(state, x, mean.astype(np.float32), step)
        memory.committed(round_)
    last = len(cohorts) + 1
    variates = [memory.of(str(n), last).get("control", np.zeros(FEATURES)) for n in range(len(SIZES))]
    return x.astype(float), state[CONTROL].astype(float), [v.astype(float) for v in variates]


@pytest.mark.parametrize(
    "cohorts", [[[0, 1, 2]] * 2, [[0, 1, 2], [0, 2], [1]], [[1], [0, 1]]], ids=["all", "some", "new"]
)
@pytest.mark.parametrize(
    "momentum", [Momentum(), Momentum(0.7), Momentum(0.7, True)], ids=["", "heavy", "nesterov"]
)
def test_both_halves_follow_the_papers_algorithm(cohorts: list[list[int]], momentum: Momentum) -> None:
    ours, theirs = flockstep(cohorts, momentum), algorithm_1(cohorts, momentum)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-5, atol=1e-5)
    assert np.abs(theirs[1]).min() > 0.01


def test_the_leaders_variate_stays_the_mean_of_the_learners() -> None:
    cohorts = [[0, 1, 2], [1, 2], [0, 1, 2], [0]]
    for rounds in range(1, len(cohorts) + 1):
        _, c, variates = flockstep(cohorts[:rounds], Momentum())
        np.testing.assert_allclose(c, np.average(variates, axis=0, weights=SIZES), atol=2e-6)
