from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.task import ImageClassification, Shard
from learner.trainer import CancelledError, DivergedError, Trainer, Update
from model.flat import FlatModel
from protos import leader_pb2
from utils.schedule import Schedule

CPU = torch.device("cpu")
EXAMPLES = 22  # batches of 8, 7 and 7


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only get in each other's way on a model as small as this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def shard() -> Shard:
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (EXAMPLES, 3, 8, 8), dtype=np.uint8)
    return Shard(images, generator.integers(0, 5, EXAMPLES))


def order(exchange: str = "delta", **changes: Any) -> leader_pb2.WorkOrder:
    plan: dict[str, Any] = {
        "exchange": exchange,
        "round": 3,
        "seed": 7,
        "first_batch": 4,
        "local_steps": 1 if exchange == "gradient" else 5,
        "batch_size": 8,
        "progress_start": 0.25,
        "progress_end": 0.5,
        "schedule": leader_pb2.Schedule(kind="onecycle", lr=0.1, warmup=0.3),
        "momentum": 0.9,
        "weight_decay": 0.01,
        "nesterov": True,
        "augment": "standard",
        "dtype": "float32",
    }
    return leader_pb2.WorkOrder(**{**plan, **changes})


def task(work: leader_pb2.WorkOrder) -> ImageClassification:
    return ImageClassification(shard(), work, CPU, channels_last=False)


def trained(work: leader_pb2.WorkOrder, trainer: Trainer | None = None) -> tuple[Update, NDArray[np.float32]]:
    """The update of `work` from the weights of `network()`, and those weights."""
    base = FlatModel(network()).snapshot().numpy()
    trainer = trainer or Trainer(FlatModel(network()))
    return trainer.run(work, base, task(work), EXAMPLES), base


def flat(module: nn.Module) -> NDArray[np.float32]:
    tensors = [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def by_torch(work: leader_pb2.WorkOrder) -> tuple[NDArray[np.float32], float]:
    """Weights and mean loss after the same steps on an ordinary module with torch.optim.SGD."""
    module, batches = network(), task(work)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=1.0,
        momentum=work.momentum,
        weight_decay=work.weight_decay,
        nesterov=work.nesterov,
    )
    schedule = Schedule(work.schedule.kind, work.schedule.lr, work.schedule.warmup)
    total, seen = 0.0, 0
    for step in range(work.local_steps):
        done = work.progress_start + (work.progress_end - work.progress_start) * step / work.local_steps
        optimizer.param_groups[0]["lr"] = schedule.at(done)
        optimizer.zero_grad()
        loss, count = batches.loss(module, work.first_batch + step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, seen = total + count * loss.item(), seen + count
    return flat(module), total / seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nesterov": False},
        {"nesterov": False, "momentum": 0.0},
        {"weight_decay": 0.0},
        {"schedule": leader_pb2.Schedule(kind="cosine", lr=0.2, warmup=0.0)},
        {"augment": "none", "label_smoothing": 0.1},
        {"local_steps": 1},
    ],
    ids=str,
)
def test_a_delta_is_what_torch_sgd_does_to_an_ordinary_module(changes: dict[str, Any]) -> None:
    work = order(**changes)
    update, base = trained(work)
    expected, loss = by_torch(work)
    np.testing.assert_allclose(base + update.values, expected, rtol=1e-6, atol=1e-6)
    assert update.loss == pytest.approx(loss, rel=1e-6)
    assert np.abs(update.values).max() > 1e-3


def test_a_gradient_is_that_of_an_ordinary_module_and_buffers_travel_as_their_change() -> None:
    work = order("gradient")
    update, base = trained(work)
    module = network()
    loss, count = task(work).loss(module, work.first_batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = np.concatenate([p.grad.numpy().ravel() for p in module.parameters() if p.grad is not None])
    np.testing.assert_allclose(update.values[: gradient.size], gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        update.values[gradient.size :], flat(module)[gradient.size :] - base[gradient.size :], atol=1e-7
    )
    assert update.values.size == base.size > gradient.size
    assert (update.examples, update.trained) == (count, count)
    assert update.loss == pytest.approx(loss.item())


def test_the_same_order_gives_the_same_bits_whatever_was_trained_before() -> None:
    first, _ = trained(order())
    used = Trainer(FlatModel(network()))
    trained(order(seed=8), used)
    trained(order("gradient"), used)
    with pytest.raises(CancelledError):
        cancelled_after(used, steps=2)
    again, _ = trained(order(), used)
    assert again.values.tobytes() == first.values.tobytes()
    assert (again.loss, again.trained, again.examples) == (first.loss, first.trained, first.examples)
    other, _ = trained(order(seed=8))
    assert other.values.tobytes() != first.values.tobytes()


def test_a_delta_weighs_as_much_as_the_shard_and_counts_what_it_trained_on() -> None:
    update, _ = trained(order(first_batch=0))
    assert (update.examples, update.trained) == (EXAMPLES, 8 + 7 + 7 + 8 + 7)
    assert update.seconds > 0


class Losses:
    """A task whose batches have given losses and sizes, whatever the weights."""

    def __init__(self, *batches: tuple[float, int]) -> None:
        self.batches = batches

    def loss(self, module: nn.Module, batch: int) -> tuple[Tensor, int]:
        """The loss of batch number `batch`."""
        value, count = self.batches[batch]
        return sum(parameter.sum() * 0 for parameter in module.parameters()) + torch.tensor(value), count


def run(trainer: Trainer, these: Losses) -> Update:
    work = order(first_batch=0, local_steps=len(these.batches))
    return trainer.run(work, trainer.model.snapshot().numpy(), these, 10)


def test_the_loss_is_weighted_by_the_examples_of_each_batch() -> None:
    assert run(Trainer(FlatModel(network())), Losses((1.0, 30), (4.0, 10))).loss == 1.75


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_that_diverged_is_an_error_that_says_what_to_do(bad: float) -> None:
    with pytest.raises(DivergedError, match=r"diverged in round 3: the loss is (nan|inf); lower train\.lr"):
        run(Trainer(FlatModel(network())), Losses((1.0, 30), (bad, 10)))


def cancelled_after(trainer: Trainer, steps: int) -> list[tuple[int, int]]:
    work, seen = order(), []

    def progress(done: int, total: int, rate: float) -> None:
        assert rate > 0
        seen.append((done, total))
        if done == steps:
            trainer.cancel()

    try:
        trainer.run(work, trainer.model.snapshot().numpy(), task(work), EXAMPLES, progress)
    except CancelledError:
        assert seen == [(done, 5) for done in range(1, steps + 1)]
        raise
    return seen


def test_progress_is_told_after_each_step_and_a_cancelled_order_stops_before_the_next() -> None:
    trainer = Trainer(FlatModel(network()))
    assert cancelled_after(trainer, steps=99) == [(done, 5) for done in range(1, 6)]
    with pytest.raises(CancelledError, match="round 3 is over"):
        cancelled_after(trainer, steps=2)


def test_weights_that_were_handed_in_are_left_as_they_were() -> None:
    base = FlatModel(network()).snapshot().numpy()
    before = copy.deepcopy(base)
    trainer = Trainer(FlatModel(network()))
    trainer.run(order(), base, task(order()), EXAMPLES)
    np.testing.assert_array_equal(base, before)
