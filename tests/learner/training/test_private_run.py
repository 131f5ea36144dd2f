"""Steps that are private in each example: the clipped mean, its noise, batches by chance, and what is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from learner.training.trainer import Trainer
from learner.training.update import Assignment, Update
from model.flat import FlatModel
from protos import leader_pb2
from tests.integration.noise_task import Noise, NormlessNoise, Rows
from utils.errors import IncompatibleError
from utils.vector import Vector

ROWS = NormlessNoise().open_data(None, train=True)
KEY = bytes(range(32))


def order(**said: Any) -> leader_pb2.WorkOrder:
    plan: dict[str, Any] = {
        "work_id": "3-0-a",
        "round": 3,
        "seed": 7,
        "exchange": "delta",
        "local_steps": 1,
        "batch_size": len(ROWS),  # of which all are in each batch
        "progress_end": 1.0,
        "schedule": leader_pb2.Schedule(kind="constant", lr=1.0),
        "dtype": "float32",
        "examples": leader_pb2.ExamplePlan(clip=0.5, epsilon=8, delta=1e-5, rounds=1),
    }
    return leader_pb2.WorkOrder(**{**plan, **said})


def trained(
    work: leader_pb2.WorkOrder | None = None,
    noise: float = 1e-3,
    key: bytes = KEY,
    rows: Rows = ROWS,
    task: Noise | None = None,
) -> Update:
    task = task or NormlessNoise()
    model = FlatModel(task.build_model(0))
    base = model.vector.detach().numpy().copy()
    charge = lambda order, examples, start: (noise, key)  # noqa: E731
    return Trainer(model).run(Assignment(work or order(), base, task, rows, charge=charge))


def clipped_gradients(clip: float) -> Tensor:
    """(examples, parameters), all at once by torch.func."""
    module = NormlessNoise().build_model(0)
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        error: Tensor = functional_call(module, values, (x[None],)) - y
        return error.square().mean()

    each = vmap(grad(loss), in_dims=(None, 0, 0))(
        parameters, torch.from_numpy(ROWS.x), torch.from_numpy(ROWS.y)
    )
    flat = torch.cat([each[name].flatten(1) for name in parameters], dim=1)
    clipped: Tensor = flat * (clip / flat.norm(dim=1, keepdim=True)).clamp(max=1)
    return clipped


def test_a_step_is_the_mean_of_gradients_clipped_one_by_one_as_torch_func_has_them() -> None:
    expected = clipped_gradients(0.5)
    norms = expected.norm(dim=1)
    assert 0 < int((norms < 0.499).sum()) < len(ROWS)  # some are clipped, some are not
    found = -trained(noise=1e-3).values
    assert np.abs(found - expected.mean(0).numpy()).max() < 6 * 1e-3 * 0.5 / len(ROWS)


def test_noise_is_the_multiplier_times_the_clip_over_the_expected_batch() -> None:
    quiet = trained().values
    noise = np.concatenate([trained(noise=4.0, key=bytes([n]) * 32).values - quiet for n in range(200)])
    expected = 4.0 * 0.5 / len(ROWS)
    assert noise.std() == pytest.approx(expected, rel=4.4 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 4.4 * expected / math.sqrt(noise.size)


def test_the_same_key_and_work_give_the_same_bits_and_any_other_does_not() -> None:
    work = order(batch_size=8, local_steps=6)
    first = trained(work, noise=1.0).values.tobytes()
    assert trained(work, noise=1.0).values.tobytes() == first
    other = order(batch_size=8, local_steps=6, work_id="3-0-b")
    assert trained(other, noise=1.0).values.tobytes() != first
    assert trained(work, noise=1.0, key=bytes(32)).values.tobytes() != first


def drawn(steps: int, rate: float, key: bytes = KEY) -> list[frozenset[int]]:
    """The batches of so many steps: what the task was asked for, put together by step."""
    seen: list[tuple[int, int]] = []

    class Watching(NormlessNoise):
        def make_batch(self, examples: Rows, indices: Any, rng: np.random.Generator | None) -> Any:
            assert len(indices) == 1
            seen.append((step[0], int(indices[0])))
            return super().make_batch(examples, indices, rng)

    step = [0]
    work = order(
        batch_size=round(rate * len(ROWS)),
        local_steps=1,
        schedule=leader_pb2.Schedule(kind="constant", lr=0.0),
    )
    for number in range(steps):
        step[0] = number
        work.first_batch = number
        trained(work, key=key, task=Watching())
    return [frozenset(example for at, example in seen if at == number) for number in range(steps)]


def test_each_example_is_in_a_batch_by_chance_and_for_itself() -> None:
    batches = drawn(300, rate=0.25)
    sizes = np.array([len(batch) for batch in batches])
    count = len(ROWS)
    assert sizes.mean() == pytest.approx(0.25 * count, abs=4.4 * math.sqrt(count * 0.1875 / 300))
    assert sizes.var() == pytest.approx(count * 0.1875, rel=4.4 * math.sqrt(2 / 300))
    for example in range(count):
        assert sum(example in batch for batch in batches) / 300 == pytest.approx(
            0.25, abs=4.4 * math.sqrt(0.1875 / 300)
        )
    assert drawn(3, 0.25, key=bytes(32)) != batches[:3]


def with_row(number: int, x: Vector) -> Rows:
    changed = ROWS.x.copy()
    changed[number] = x
    return Rows(changed, ROWS.y)


@pytest.mark.parametrize("x", [np.full(6, 1e3), np.full(6, -3.0), np.full(6, np.inf), np.full(6, np.nan)])
def test_one_example_moves_a_step_no_further_than_twice_the_clip_whatever_it_is(x: Vector) -> None:
    moved = trained(rows=with_row(5, x.astype(np.float32))).values - trained().values
    assert 0 < np.linalg.norm(moved) < (2 * 0.5 + 2 * 6 * 1e-3 * 0.5 * 7) / len(ROWS)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    work = order(batch_size=1)
    keys = [bytes([n]) * 32 for n in range(30)]
    updates = [trained(work, noise=1e-3, key=key) for key in keys]
    still = [update for update in updates if np.linalg.norm(update.values) < 7 * 6 * 1e-3 * 0.5]
    assert 0 < len(still) < len(updates)
    assert {update.trained for update in updates} == {1}  # as expected, whoever was drawn
    assert all(math.isfinite(update.loss) for update in updates)


def test_two_steps_of_nobody_have_not_the_same_noise() -> None:
    steps = [trained(order(batch_size=1, first_batch=number)).values for number in range(16)]
    still = [values.tobytes() for values in steps if np.linalg.norm(values) < 7 * 6 * 1e-3 * 0.5]
    assert 2 <= len(still) == len(set(still))


def test_another_sum_under_the_same_key_has_other_noise_so_that_their_difference_tells_nothing() -> None:
    other = with_row(5, np.full(6, -3.0, np.float32))
    moved = trained(noise=50.0, rows=other).values - trained(noise=50.0).values
    assert np.linalg.norm(moved) > 20 * 2 * 0.5 / len(ROWS)  # what one example can move


def test_batch_norm_is_refused_in_words() -> None:
    with pytest.raises(IncompatibleError, match="batch norm, which mixes examples"):
        trained(task=Noise())


def test_steps_that_nobody_charges_are_not_made() -> None:
    model = FlatModel(NormlessNoise().build_model(0))
    base = model.vector.detach().numpy().copy()
    with pytest.raises(IncompatibleError, match="needs a learner with a ledger"):
        Trainer(model).run(Assignment(order(), base, NormlessNoise(), ROWS))


def test_a_task_that_trains_by_itself_is_refused() -> None:
    class Fits(NormlessNoise):
        def fit(self, model: nn.Module, examples: Rows, plan: Any) -> float:
            return 0.0

    with pytest.raises(IncompatibleError, match="trains by itself, so its examples can't be clipped"):
        trained(task=Fits())
