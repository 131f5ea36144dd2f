"""Assignments trained as one batch: the updates of one at a time up to rounding, and what can't be is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from benchmarks.simulations.mlp_task import PARAMETERS, Mlp, Vectors
from leader.config import RunConfig
from learner.training.trainer import Trainer
from learner.training.update import Assignment, DivergedError, Update
from model.flat import FlatModel
from model.image_classification import ImageClassification, Shard
from model.task import FitPlan
from protos import leader_pb2
from scripts.simulate.__main__ import main
from scripts.simulate.batched_pool import Batched
from scripts.simulate.parts import Brought
from scripts.simulate.pool import OneWorker, Pool
from scripts.simulate.simulation import Hooks, Options, Outcome, simulate
from utils.errors import ConfigError
from utils.vector import Vector

SIZES = (22, 9, 16, 30, 8, 17, 25)  # examples of seven learners; batches of up to 8 differ by 1
#: float32 has 1.2e-7; what a handful of steps make of another order of the same sums.
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}


class Forgetful(Mlp):
    """The same with dropout."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(model, (torch.dropout(batch[0], 0.5, True), batch[1]))


class Asking(Mlp):
    """The same with a loss that depends on a value."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = super().loss(model, batch)
        return loss if float(loss.detach()) > 0 else -loss


class OwnFit(Mlp):
    """The same, trained by itself."""

    def fit(self, model: nn.Module, examples: Any, plan: FitPlan) -> float:
        return 0.0


class Normed(Mlp):
    """The same with batch norm."""

    def build_model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().build_model(seed), nn.BatchNorm1d(10))


class Tied(Mlp):
    """The same with a layer that is used twice, one that is frozen, and a constant that doesn't travel."""

    def build_model(self, seed: int) -> nn.Module:
        first, relu, last = super().build_model(seed).children()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)  # what is frozen is the same for all
            twice, frozen = nn.Linear(64, 64), nn.Linear(64, 64)
        again = nn.Linear(64, 64)
        again.weight, again.bias = twice.weight, twice.bias
        frozen.requires_grad_(False)
        frozen.register_buffer("constant", torch.ones(1), persistent=False)
        return nn.Sequential(first, relu, twice, nn.ReLU(), again, frozen, nn.ReLU(), last)


def vectors(number: int) -> Vectors:
    """So many examples as learner `number` has."""
    random = np.random.default_rng(number)
    inputs = random.standard_normal((SIZES[number], 32), np.float32)
    return Vectors(inputs, random.integers(0, 10, SIZES[number]))


def images(number: int) -> Shard:
    """As many images."""
    random = np.random.default_rng(number)
    count = SIZES[number]
    return Shard(random.integers(0, 256, (count, 3, 8, 8), np.uint8), random.integers(0, 10, count))


def order(number: int, **changes: Any) -> leader_pb2.WorkOrder:
    plan: dict[str, Any] = {
        "exchange": "delta",
        "round": 3,
        "seed": number,
        "first_batch": number,
        "local_steps": 2 + number % 3,
        "batch_size": 8,
        "progress_start": 0.25,
        "progress_end": 0.75,
        "schedule": leader_pb2.Schedule(kind="constant", lr=0.1),
        "dtype": "float32",
    }
    return leader_pb2.WorkOrder(**{**plan, **changes})


def assignments(task: Any = None, holdout: float = 0.0, **changes: Any) -> list[Assignment]:
    """One for each learner; the bases differ, as in asynchronous runs."""
    random, task = np.random.default_rng(0), task or Mlp()
    base = FlatModel(task.build_model(0)).vector.numpy()
    bases = [base + np.float32(0.01) * random.standard_normal(len(base), np.float32) for _ in SIZES]
    data = vectors if isinstance(task, Mlp) else images
    return [
        Assignment(order(i, **changes), bases[i], task, data(i), holdout=holdout) for i in range(len(SIZES))
    ]


def make_trainer(task: Any = None) -> Trainer:
    return Trainer(FlatModel((task or Mlp()).build_model(0)))


def updates(pool: Pool, given: Sequence[Assignment]) -> list[Update]:
    """All updates, asked for from the last to the first."""

    async def ask() -> list[Update]:
        under_way = [pool.train(one) for one in given]
        made = [await training.update() for training in reversed(under_way)]
        return made[::-1]

    return asyncio.run(ask())


def assert_same_updates(
    given: Sequence[Assignment],
    most: int = 3,
    task: Any = None,
) -> None:
    one = updates(OneWorker(partial(make_trainer, task)), given)
    batched = updates(Batched(most, partial(make_trainer, task)), given)
    for plain, made in zip(one, batched, strict=True):
        np.testing.assert_allclose(made.values, plain.values, **CLOSE)
        assert np.abs(plain.values).max() > 0.001
        assert (made.examples, made.trained) == (plain.examples, plain.trained)
        assert made.loss == pytest.approx(plain.loss, rel=1e-5)
        assert (made.start_loss is None) == (plain.start_loss is None)
        assert (made.start_loss or 0) == pytest.approx(plain.start_loss or 0, rel=1e-5)
        assert made.scores.keys() == plain.scores.keys()
        for name, score in made.scores.items():
            assert score.value == pytest.approx(plain.scores[name].value, rel=1e-5)
            assert score.examples == plain.scores[name].examples
        assert made.memory.keys() == plain.memory.keys()
        for name, kept in made.memory.items():
            np.testing.assert_allclose(kept, plain.memory[name], **CLOSE)


MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}
COSINE = leader_pb2.Schedule(kind="cosine", lr=0.1, warmup=0.3)


@pytest.mark.parametrize("most", [2, 3, 7, 50])
def test_updates_are_those_of_one_at_a_time_up_to_rounding(most: int) -> None:
    assert_same_updates(assignments(), most)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        MOMENTUM,
        {"schedule": COSINE},
        {"proximal_mu": 0.5},
        {**MOMENTUM, "schedule": COSINE, "proximal_mu": 0.5},
        {"exchange": "gradient", "local_steps": 1},
        {"evaluate": True, "start_loss": True},
    ],
    ids=["momentum", "nesterov", "cosine", "FedProx", "all", "gradient", "scores"],
)
def test_what_an_order_asks_of_its_steps_holds_for_every_row(changes: dict[str, Any]) -> None:
    assert_same_updates(assignments(holdout=0.3, **changes))


def test_bfloat16_is_the_arithmetic_of_all_rows() -> None:
    given = assignments(dtype="bfloat16")
    exact, plain = (updates(OneWorker(make_trainer), one) for one in (assignments(), given))
    for made, one, other in zip(updates(Batched(3, make_trainer), given), plain, exact, strict=True):
        length = np.linalg.norm(one.values)
        assert np.linalg.norm(made.values - one.values) < 0.1 * length  # with a ReLU on the other side of 0
        assert np.linalg.norm(made.values - other.values) > 0.001 * length


def test_a_control_variate_is_each_learners_own() -> None:
    random = np.random.default_rng(1)
    given = [
        Assignment(
            one.order,
            one.base,
            one.task,
            one.examples,
            control=random.standard_normal(PARAMETERS, np.float32),
            memory={"control": random.standard_normal(PARAMETERS, np.float32)},
        )
        for one in assignments(control_variates=True)
    ]
    assert_same_updates(given)


def test_images_are_augmented_and_scored_as_one_at_a_time() -> None:
    task = ImageClassification("resnet9-w8", "group", label_smoothing=0.1, channels_last=False)
    assert_same_updates(assignments(task, local_steps=2, **MOMENTUM)[:4], 4, task)


def test_the_same_number_gives_the_same_bits() -> None:
    runs = [updates(Batched(3, make_trainer), assignments(**MOMENTUM)) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one.values, other.values)


def test_an_order_for_scores_alone_has_them_beside_others_that_train() -> None:
    given = assignments(holdout=0.3, evaluate=True)
    given[1].order.local_steps = 0
    made = updates(Batched(7, make_trainer), given)
    assert made[1].trained == 0
    assert made[1].scores["loss"].examples == int(SIZES[1] * 0.3)
    assert not made[1].values.any()
    assert all(update.values.any() for update in made[2:])


def test_one_that_diverges_fails_alone() -> None:
    given = assignments()
    given[2].examples.inputs[:] = np.inf  # type: ignore[attr-defined]

    async def ask() -> list[Update | BaseException]:
        pool = Batched(7, make_trainer)
        under_way = [pool.train(one) for one in given]
        return [(await asyncio.gather(one.update(), return_exceptions=True))[0] for one in under_way]

    made = asyncio.run(ask())
    assert isinstance(made[2], DivergedError)
    assert "the loss is nan; lower train.lr" in str(made[2])
    plain = updates(OneWorker(make_trainer), given[:2] + given[3:])
    for one, other in zip(made[:2] + made[3:], plain, strict=True):
        assert isinstance(one, Update)
        np.testing.assert_allclose(one.values, other.values, **CLOSE)


class Counted(Mlp):
    """The same; keeps the sizes of the data that it was asked for batches of."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def make_batch(self, examples: Vectors, indices: Any, rng: Any) -> tuple[Tensor, Tensor]:
        self.asked.append(len(examples))
        return super().make_batch(examples, indices, rng)


def test_a_cancelled_assignment_is_not_trained_and_an_update_that_was_made_is_kept() -> None:
    task = Counted()

    async def ask() -> None:
        pool = Batched(3, make_trainer)
        under_way = [pool.train(one) for one in assignments(task, local_steps=1)]
        under_way[1].cancel()
        await under_way[3].update()
        assert task.asked == [SIZES[3], SIZES[0], SIZES[2]]  # the one asked for, and the next that wait
        task.asked.clear()
        assert (await under_way[0].update()).values.any()
        under_way[2].cancel()
        assert task.asked == []
        await under_way[6].update()
        assert task.asked == [SIZES[6], SIZES[4], SIZES[5]]

    asyncio.run(ask())


LEARNERS = 7
TASK = {"task": "benchmarks.simulations.mlp_task:Mlp"}
TIED = {"task": "tests.scripts.simulate.test_batched_pool:Tied"}


def config(folder: Path, **settings: Any) -> RunConfig:
    given: dict[str, Any] = {
        "rounds": 4,
        "learners": LEARNERS,
        "run_dir": folder,
        "seed": 5,
        "model": TASK,
        "data": {"source": "none", "holder": "learner"},
        "train": {"local_steps": 0, "batch_size": 8, "dtype": "float32"},
        "evaluation": {"holdout": 0.2, "federated_every": 2},
    }
    return RunConfig.model_validate(given | settings)


def run(settings: RunConfig, options: Options, *, resume: bool = False) -> Outcome:
    own = [
        Brought(vectors(i), leader_pb2.OwnData(examples=SIZES[i], fingerprint=f"client-{i}"))
        for i in range(LEARNERS)
    ]
    return simulate(settings, options, Hooks(own), resume=resume)


def weights(outcome: Outcome) -> Vector:
    """The model in the run's folder."""
    tensors = load_file(outcome.folder / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": {**TASK, "local": "2.*"}},
        {"buffer": {"size": 3}, "rounds": 8, "evaluation": {}},
        {"model": TIED},
        {"secagg": {"mode": "masked", "bits": 64}, "cohort": {"quorum": 0.8}, "evaluation": {}},
    ],
    ids=["rounds", "local tensors", "asynchronous", "tied and frozen", "masked"],
)
def test_a_whole_run_ends_near_the_one_of_one_at_a_time(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, batched, again = (
        run(config(tmp_path / name, **settings), Options(batch_clients=most, speed_spread=0.5))
        for name, most in (("plain", 1), ("batched", 3), ("again", 3))
    )
    assert batched.reason == ""
    np.testing.assert_allclose(weights(batched), weights(plain), rtol=1e-4, atol=1e-5)
    assert batched.summary["loss"] == pytest.approx(plain.summary["loss"], rel=1e-5)
    assert batched.summary["model_sha256"] == again.summary["model_sha256"]


def test_a_resumed_run_ends_in_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    options = Options(batch_clients=3)
    settings: dict[str, Any] = {"train": {"local_steps": 2, "schedule": "constant", "dtype": "float32"}}
    whole = run(config(tmp_path / "whole", **settings), options)
    run(config(tmp_path / "run", rounds=2, **settings), options)
    resumed = run(config(tmp_path / "run", **settings), options, resume=True)
    assert resumed.summary["rounds"] == whole.summary["rounds"] == 4
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


@pytest.mark.parametrize(
    ("task", "refusal"),
    [
        (Forgetful, r"randomness error mode.*leave --batch-clients out, as for dropout"),
        (Asking, r"can't be taken of many models at once .*\.item\(\)"),
        (Normed, r"buffers \(1\.running_mean\).*set model\.norm=group"),
        (OwnFit, r"the task trains by itself .*leave --batch-clients out"),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: type[Mlp], refusal: str
) -> None:
    monkeypatch.setattr("benchmarks.simulations.mlp_task.Mlp", task)
    with pytest.raises(ConfigError, match=refusal):
        run(config(tmp_path / "run"), Options(batch_clients=3))


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"train": {"personal_lambda": 0.1}}, r"train\.personal_lambda"),
        ({"streaming": {"fragments": 2}, "train": {"local_steps": 4}}, r"streaming\.fragments"),
        ({"dp": {"mode": "examples", "noise_multiplier": 1.0}}, "dp.mode=examples"),
    ],
    ids=["Ditto", "streaming", "dp"],
)
def test_an_algorithm_of_more_than_plain_steps_is_refused(
    tmp_path: Path, settings: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(ConfigError, match=refusal):
        run(config(tmp_path / "run", evaluation={}, **settings), Options(batch_clients=3))


@pytest.mark.parametrize("other", [["--workers", "2"], ["--ray"]])
def test_workers_and_ray_are_refused_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: list[str]
) -> None:
    flags = ["--run-dir", str(tmp_path / "run"), "--data", "synthetic", "--batch-clients", "4"]
    assert main([*flags, *other]) == 2
    assert "leave out --workers and --ray" in capsys.readouterr().err
