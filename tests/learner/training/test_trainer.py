from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.training.trainer import Trainer
from learner.training.update import Assignment, CancelledError, DivergedError, Update
from model.flat import FlatModel
from model.image_classification import ImageClassification, Shard
from model.task import FitPlan, Indices, Task
from protos import leader_pb2
from utils.batches import ShardSampler, batch_generator, holdout_split
from utils.errors import IncompatibleError
from utils.schedule import Schedule
from utils.vector import Vector

EXAMPLES = 22  # batches of 8, 7 and 7
PLAIN: dict[str, Any] = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


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


def flat(module: nn.Module) -> Vector:
    tensors = [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


BASE = flat(network())
PARAMETERS = sum(parameter.numel() for parameter in network().parameters())
NORM = np.arange(108, 116)  # of the weights and biases of the norm, behind the convolution's 4 x 3 x 3 x 3


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


def images(work: leader_pb2.WorkOrder) -> ImageClassification:
    return ImageClassification(
        augment=work.augment == "standard", label_smoothing=work.label_smoothing, channels_last=False
    )


def trainer(*local: str) -> Trainer:
    model = FlatModel(network())
    model.layout = model.layout.keeping(local)
    return Trainer(model)


def assignment(work: leader_pb2.WorkOrder, task: Task | None = None, **more: Any) -> Assignment:
    return Assignment(
        work, more.pop("base", BASE), task or images(work), more.pop("examples", shard()), **more
    )


def trained(work: leader_pb2.WorkOrder, by: Trainer | None = None, **more: Any) -> Update:
    """The update of `work` from the weights of `network()`."""
    return (by or trainer()).run(assignment(work, **more))


def rates(work: leader_pb2.WorkOrder) -> list[float]:
    """The learning rate of each local step."""
    schedule = Schedule(work.schedule.kind, work.schedule.lr, work.schedule.warmup)
    spread = work.progress_end - work.progress_start
    return [
        schedule.at(work.progress_start + spread * step / work.local_steps)
        for step in range(work.local_steps)
    ]


def batches(work: leader_pb2.WorkOrder, holdout: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """The order's batches, drawn from what is not held out."""
    kept, _ = holdout_split(EXAMPLES, holdout, work.seed)
    sampler = ShardSampler(len(kept), work.batch_size, work.seed)
    for number in range(work.first_batch, work.first_batch + work.local_steps):
        indices = kept[np.sort(sampler.indices(number))]
        yield images(work).make_batch(shard(), indices, batch_generator(work.seed, number))


Penalty = Callable[[nn.Module], Tensor]


def by_torch(
    work: leader_pb2.WorkOrder,
    *,
    start: Vector = BASE,
    penalty: Penalty = lambda module: torch.zeros(()),
    shift: Vector | None = None,
    holdout: float = 0.0,
) -> tuple[Vector, float]:
    """Weights and mean loss after the same steps on an ordinary module with torch.optim.SGD.

    `penalty` is added to the loss, `shift` (P,) to the gradient.
    """
    module = loaded(start)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=1.0,
        momentum=work.momentum,
        weight_decay=work.weight_decay,
        nesterov=work.nesterov,
    )
    total, seen = 0.0, 0
    for rate, batch in zip(rates(work), batches(work, holdout), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = images(work).loss(module, batch)
        (loss + penalty(module)).backward()  # type: ignore[no-untyped-call]
        if shift is not None:
            add_to_gradient(module, shift)
        optimizer.step()
        count = len(batch[1])
        total, seen = total + count * loss.item(), seen + count
    return flat(module), total / seen


def loaded(vector: Vector) -> nn.Module:
    """An ordinary module with these weights and buffers."""
    model = FlatModel(network())
    model.load(vector)
    module = network()
    module.load_state_dict(model.module.state_dict())
    return module


def add_to_gradient(module: nn.Module, shift: Vector) -> None:
    start = 0
    for parameter in module.parameters():
        assert parameter.grad is not None
        piece = shift[start : start + parameter.numel()]
        parameter.grad += torch.from_numpy(piece).view_as(parameter)
        start += parameter.numel()


def squared_distance(module: nn.Module, anchor: Vector) -> Tensor:
    vector = torch.cat([parameter.ravel() for parameter in module.parameters()])
    return (vector - torch.from_numpy(anchor[:PARAMETERS])).square().sum()


def random(size: int, seed: int, scale: float = 0.05) -> Vector:
    return (scale * np.random.Generator(np.random.PCG64(seed)).normal(size=size)).astype(np.float32)


def close(ours: Vector, theirs: Vector) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


# --- plain SGD -----------------------------------------------------------------------------


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
    update = trained(work)
    expected, loss = by_torch(work)
    np.testing.assert_allclose(BASE + update.values, expected, rtol=1e-6, atol=1e-6)
    assert update.loss == pytest.approx(loss, rel=1e-6)
    assert np.abs(update.values).max() > 1e-3
    assert (dict(update.memory), dict(update.scores), update.start_loss) == ({}, {}, None)


def test_a_gradient_is_that_of_an_ordinary_module_and_buffers_travel_as_their_change() -> None:
    work = order("gradient")
    update = trained(work)
    module = network()
    [batch] = batches(work)
    loss = images(work).loss(module, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = np.concatenate([p.grad.numpy().ravel() for p in module.parameters() if p.grad is not None])
    np.testing.assert_allclose(update.values[:PARAMETERS], gradient, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        update.values[PARAMETERS:], flat(module)[PARAMETERS:] - BASE[PARAMETERS:], atol=1e-7
    )
    assert update.values.size == BASE.size > PARAMETERS
    assert (update.examples, update.trained) == (len(batch[1]), len(batch[1]))
    assert update.loss == pytest.approx(loss.item())


def everything(seed: int = 7) -> leader_pb2.WorkOrder:
    """An order that asks for all that a learner can do."""
    return order(
        seed=seed,
        proximal_mu=0.1,
        control_variates=True,
        personal_lambda=0.2,
        evaluate=True,
        start_loss=True,
        **PLAIN,
    )


def test_the_same_order_gives_the_same_bits_whatever_was_trained_before() -> None:
    given: dict[str, Any] = {"control": random(PARAMETERS, 1), "holdout": 0.3}
    for work in (order(), everything()):
        first = trained(work, **given)
        used = trainer()
        trained(order(seed=8), used)
        trained(order("gradient"), used)
        trained(everything(seed=9), used, **given)
        with pytest.raises(CancelledError):
            cancelled_after(used, steps=2)
        used.expect()
        again = trained(work, used, **given)
        assert again.values.tobytes() == first.values.tobytes()
        assert (again.loss, again.trained, again.examples) == (first.loss, first.trained, first.examples)
        assert (again.scores, again.start_loss) == (first.scores, first.start_loss)
        assert {n: v.tobytes() for n, v in again.memory.items()} == {
            n: v.tobytes() for n, v in first.memory.items()
        }
        assert trained(order(seed=8)).values.tobytes() != first.values.tobytes()


def test_dropout_is_the_same_for_the_same_order() -> None:
    class Dropping(Trainer):
        def __init__(self) -> None:
            super().__init__(FlatModel(nn.Sequential(*network().children(), nn.Dropout(0.5))))

    values = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        values.append(trained(order(), Dropping()).values)
    assert values[0].tobytes() == values[1].tobytes()
    assert values[0].tobytes() != trained(order()).values.tobytes()


def test_a_delta_weighs_as_much_as_the_shard_and_counts_what_it_trained_on() -> None:
    update = trained(order(first_batch=0))
    assert (update.examples, update.trained) == (EXAMPLES, 8 + 7 + 7 + 8 + 7)
    assert update.seconds > 0


class Numbers:
    """Any so many examples."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class Watched:
    """A task that keeps which examples it was asked for; each example's loss is what `losses` says."""

    def __init__(self, losses: Callable[[Indices], float] = lambda indices: 1.0) -> None:
        self.losses = losses
        self.drawn: list[Indices] = []  # with augmentation: those trained on
        self.looked_at: list[Indices] = []  # without

    def build_model(self, seed: int) -> nn.Module:
        """Any."""
        return network()

    def open_data(self, path: object, *, train: bool) -> None:
        """None."""

    def make_batch(self, examples: Numbers, indices: Indices, rng: np.random.Generator | None) -> Indices:
        """The indices."""
        (self.looked_at if rng is None else self.drawn).append(indices)
        return indices

    def loss(self, model: nn.Module, batch: Indices) -> Tensor:
        """The given loss, whatever the weights."""
        return sum(p.sum() * 0 for p in model.parameters()) + torch.tensor(self.losses(batch))

    def metrics(self, model: nn.Module, batch: Indices) -> Mapping[str, float]:
        """The mean position, and one that is never finite."""
        return {"place": float(batch.mean()), "broken": math.nan}


def test_the_loss_is_weighted_by_the_examples_of_each_batch() -> None:
    work = order(first_batch=0, local_steps=3)
    update = trained(work, task=Watched(lambda indices: float(len(indices))), examples=Numbers(EXAMPLES))
    assert update.loss == pytest.approx((8 * 8 + 7 * 7 + 7 * 7) / EXAMPLES)


def test_each_pass_shows_every_example_once_in_ascending_order() -> None:
    task = Watched()
    trained(order(first_batch=0, local_steps=6), task=task, examples=Numbers(EXAMPLES))
    for first in (0, 3):
        assert sorted(np.concatenate(task.drawn[first : first + 3])) == list(range(EXAMPLES))
    assert all((np.diff(indices) > 0).all() for indices in task.drawn)
    assert [len(indices) for indices in task.drawn] == [8, 7, 7] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_that_diverged_is_an_error_that_says_what_to_do(bad: float) -> None:
    with pytest.raises(
        DivergedError, match=r"^training diverged in round 3: the loss is (nan|inf); lower train\.lr$"
    ):
        trained(order(), task=Watched(lambda indices: bad), examples=Numbers(EXAMPLES))


def cancelled_after(these: Trainer, steps: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, rate: float) -> None:
        assert rate > 0
        seen.append((done, total))
        if done == steps:
            these.cancel()

    try:
        these.run(assignment(order()), progress)
    except CancelledError:
        assert seen == [(done, 5) for done in range(1, steps + 1)]
        raise
    return seen


def test_progress_is_told_after_each_step_and_a_cancelled_order_stops_before_the_next() -> None:
    assert cancelled_after(trainer(), steps=99) == [(done, 5) for done in range(1, 6)]
    with pytest.raises(CancelledError, match="round 3 is over"):
        cancelled_after(trainer(), steps=2)


def test_what_was_handed_in_is_left_as_it_was() -> None:
    memory = {"local": random(16, 1) + 1, "control": random(PARAMETERS, 2), "personal": BASE + 1}
    given: dict[str, Any] = {"base": BASE.copy(), "control": random(PARAMETERS, 3), "memory": memory}
    before = copy.deepcopy(given)
    trained(everything(), trainer("1.*"), holdout=0.2, **given)
    np.testing.assert_equal(given, before)


# --- FedProx -------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [PLAIN, {}], ids=["plain", "momentum"])
def test_fedprox_steps_down_the_loss_and_half_mu_times_the_squared_distance(changes: dict[str, Any]) -> None:
    work = order(proximal_mu=1.5, **changes)
    update = trained(work)
    expected, loss = by_torch(work, penalty=lambda module: 0.75 * squared_distance(module, BASE))
    close(BASE + update.values, expected)
    assert update.loss == pytest.approx(loss, rel=1e-6)  # without the penalty
    assert np.abs(update.values - trained(order(**changes)).values).max() > 1e-4


# --- SCAFFOLD ------------------------------------------------------------------------------


def scaffold(**changes: Any) -> leader_pb2.WorkOrder:
    return order(control_variates=True, **{**PLAIN, **changes})


def test_scaffold_steps_along_the_gradient_less_its_own_variate_and_the_leaders() -> None:
    work, control, own = scaffold(), random(PARAMETERS, 1), random(PARAMETERS, 2)
    update = trained(work, control=control, memory={"control": own})
    expected, _ = by_torch(work, shift=control - own)
    close(BASE + update.values, expected)
    # Option II: c_i - c + (x - y_i) / (K lr), where K lr is the sum of the steps' rates.
    moved: Vector = (BASE - expected)[:PARAMETERS] / np.float32(math.fsum(rates(work)))
    np.testing.assert_allclose(update.memory["control"], own - control + moved, rtol=1e-4, atol=1e-4)
    assert np.abs(update.values - trained(order(**PLAIN)).values).max() > 1e-4


def test_scaffold_begins_with_a_variate_of_zero() -> None:
    work, control = scaffold(), random(PARAMETERS, 1)
    first = trained(work, control=control)
    same = trained(work, control=control, memory={"control": np.zeros(PARAMETERS, np.float32)})
    assert first.values.tobytes() == same.values.tobytes()
    assert first.memory["control"].tobytes() == same.memory["control"].tobytes()


def test_scaffold_without_a_step_keeps_its_variate() -> None:
    work = scaffold(
        local_steps=1,
        progress_start=0.0,
        schedule=leader_pb2.Schedule(kind="cosine", lr=0.1, warmup=0.5),
    )
    assert rates(work) == [0.0]
    own = random(PARAMETERS, 2)
    update = trained(work, control=random(PARAMETERS, 1), memory={"control": own})
    assert update.memory["control"].tobytes() == own.tobytes()
    assert update.values[:PARAMETERS].tolist() == [0.0] * PARAMETERS


@pytest.mark.parametrize("control", [None, np.zeros(3, np.float32)])
def test_scaffold_without_the_leaders_variate_is_refused(control: Vector | None) -> None:
    with pytest.raises(IncompatibleError, match="sent no control variate that fits"):
        trained(scaffold(), control=control)


# --- Ditto ---------------------------------------------------------------------------------


def test_ditto_trains_the_personal_model_drawn_to_the_rounds_one() -> None:
    work, personal = order(personal_lambda=0.8), BASE + random(BASE.size, 4).clip(0)
    update = trained(work, memory={"personal": personal})
    expected, _ = by_torch(work, start=personal, penalty=lambda module: 0.4 * squared_distance(module, BASE))
    close(update.memory["personal"], expected)
    assert update.values.tobytes() == trained(order()).values.tobytes()
    first = trained(work).memory["personal"]
    close(first, by_torch(work, penalty=lambda module: 0.4 * squared_distance(module, BASE))[0])


def test_a_personal_model_that_diverges_is_an_error_that_says_what_to_do() -> None:
    broken = np.full_like(BASE, np.nan)
    with pytest.raises(
        DivergedError, match=r"the personal model diverged in round 3: .*train\.personal_lambda"
    ):
        trained(order(personal_lambda=0.8), memory={"personal": broken})


# --- FedBN ---------------------------------------------------------------------------------


def test_fedbn_trains_from_the_local_tensors_and_brings_none_of_them() -> None:
    work = order(evaluate=True, start_loss=True)
    by = trainer("1.*")
    own = np.concatenate([random(8, 5) + 1, random(4, 6), random(4, 7).clip(0) + 1]).astype(np.float32)
    places = np.concatenate([NORM, np.arange(PARAMETERS, BASE.size)])
    start = BASE.copy()
    start[places] = own
    update = trained(work, by, memory={"local": own}, holdout=0.3)
    expected, _ = by_torch(work, start=start, holdout=0.3)
    close(update.memory["local"], expected[places])
    shared = np.setdiff1d(np.arange(BASE.size), places)
    close((BASE + update.values)[shared], expected[shared])
    assert update.values[places].tolist() == [0.0] * len(places)
    assert np.abs(expected[places] - own).min() > 0
    module = loaded(start).eval()
    kept, held = holdout_split(EXAMPLES, 0.3, work.seed)
    task = images(work)
    scored, seen = (task.make_batch(shard(), indices, None) for indices in (held, kept))
    with torch.no_grad():
        assert update.scores["loss"].value == pytest.approx(task.metrics(module, scored)["loss"], rel=1e-6)
        assert update.start_loss == pytest.approx(float(task.loss(module, seen)), rel=1e-6)


def test_scaffold_leaves_local_tensors_to_plain_sgd() -> None:
    work, control, own = scaffold(), random(PARAMETERS, 1), random(PARAMETERS, 2)
    update = trained(work, trainer("1.weight", "1.bias"), control=control, memory={"control": own})
    shift = control - own
    shift[NORM] = 0
    expected, _ = by_torch(work, shift=shift)
    close(update.memory["local"], expected[NORM])
    assert update.memory["control"][NORM].tolist() == [0.0] * len(NORM)


@pytest.mark.parametrize(
    ("name", "size"), [("local", 3), ("control", PARAMETERS + 1), ("personal", PARAMETERS)]
)
def test_memory_of_another_model_is_refused(name: str, size: int) -> None:
    with pytest.raises(IncompatibleError, match=rf"\({name}\) is of another model; use another --state-dir"):
        trained(
            everything(),
            trainer("1.*"),
            control=random(PARAMETERS, 1),
            memory={name: np.zeros(size, np.float32)},
        )


# --- held-out examples ---------------------------------------------------------------------


def test_no_held_out_example_is_ever_trained_on_and_all_others_are() -> None:
    work = order(first_batch=0, local_steps=12, evaluate=True, start_loss=True, personal_lambda=0.1)
    task = Watched()
    update = trained(work, task=task, examples=Numbers(EXAMPLES), holdout=0.3)
    kept, held = holdout_split(EXAMPLES, 0.3, 7)
    assert (len(kept), len(held)) == (16, 6)
    assert set(np.concatenate(task.drawn)) == set(kept)
    assert len(task.drawn) == 24
    assert [list(indices) for indices in task.looked_at] == [list(held), list(held), list(kept)]
    assert (update.examples, update.trained) == (16, 96)
    assert update.scores["place"].value == pytest.approx(float(held.mean()))
    assert {score.examples for score in update.scores.values()} == {6}


def test_scores_that_are_not_finite_are_left_out() -> None:
    update = trained(order(evaluate=True), task=Watched(), examples=Numbers(EXAMPLES), holdout=0.3)
    assert list(update.scores) == ["place"]


def test_scores_are_those_of_the_orders_model_and_of_the_personal_one_before_training() -> None:
    work = order(evaluate=True, personal_lambda=0.5)
    personal = BASE + random(BASE.size, 4).clip(0)
    update = trained(work, memory={"personal": personal}, holdout=0.3)
    _, held = holdout_split(EXAMPLES, 0.3, work.seed)
    task = images(work)
    chosen = task.make_batch(shard(), held, None)
    for prefix, vector in (("", BASE), ("personal_", personal)):
        with torch.no_grad():
            expected = task.metrics(loaded(vector).eval(), chosen)
        for name in ("accuracy", "loss"):
            assert update.scores[prefix + name].value == pytest.approx(expected[name], rel=1e-6)
    assert set(update.scores) == {"accuracy", "loss", "personal_accuracy", "personal_loss"}
    assert update.scores["loss"] != update.scores["personal_loss"]
    close(BASE + update.values, by_torch(order(), holdout=0.3)[0])


def test_scores_are_told_only_when_asked_for_and_where_something_is_held_out() -> None:
    assert trained(order(), holdout=0.3).scores == {}
    assert trained(order(evaluate=True)).scores == {}


# --- a task that trains by itself ----------------------------------------------------------


class Counting(ImageClassification):
    """Adds to every weight the number of its examples times the learning rate."""

    def fit(self, model: nn.Module, examples: Shard, plan: FitPlan) -> float:
        """See FitsItself."""
        once = [list(indices) for indices in plan.batches()]
        assert once == [list(indices) for indices in plan.batches()]
        assert model.training
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(plan.lr * sum(map(len, once)))
        return float(plan.seed)


def test_a_task_may_train_by_itself() -> None:
    work = order(first_batch=0, local_steps=3, evaluate=True)
    update = trained(work, task=Counting(), holdout=0.1)
    assert update.values[:PARAMETERS] == pytest.approx(20 * rates(work)[0], rel=1e-5)
    assert update.values[PARAMETERS:].tolist() == [0.0] * 8
    assert (update.loss, update.examples, update.trained) == (7.0, 20, 20)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (order("gradient"), "has no gradients; use exchange: delta"),
        (order(proximal_mu=0.1), "leave out train.proximal_mu"),
        (scaffold(), "leave out train.proximal_mu"),
        (order(personal_lambda=0.1), "leave out train.proximal_mu"),
    ],
)
def test_a_task_that_trains_by_itself_refuses_what_is_about_steps(
    work: leader_pb2.WorkOrder, message: str
) -> None:
    with pytest.raises(IncompatibleError, match=message):
        trained(work, task=Counting(), control=random(PARAMETERS, 1))
