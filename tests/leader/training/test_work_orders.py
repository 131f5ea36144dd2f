from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.config import RunConfig, StreamingConfig
from leader.data.part import Part
from leader.rounds.buffer import OpenWork
from leader.training.open_orders import place_of
from leader.training.work_orders import WorkPlanner
from protos import leader_pb2
from utils.batches import ShardSampler, holdout_split
from utils.schedule import Schedule

PART = Part.of_shard(3, 100, run_seed=0)


def config(exchange: str = "delta", rounds: int = 10, **train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"exchange": exchange, "rounds": rounds, "train": {"batch_size": 32, **train}}
    )


def order(
    settings: RunConfig | None = None,
    *,
    secret: str = "secret",
    round_: int = 2,
    step: int = 0,
    steps: int = 1,
    part: Part = PART,
    version: int = 5,
    first_exchange: int = 1,
) -> leader_pb2.WorkOrder:
    planner = WorkPlanner(settings or config(), secret)
    return planner.order(round_, step, steps, part, version=version, first_exchange=first_exchange)


def test_the_same_inputs_give_the_same_order() -> None:
    assert order() == order()
    assert re.fullmatch(r"2-0-[0-9a-f]{32}", order().work_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "other"},
        {"round_": 3},
        {"step": 1, "steps": 2},
        {"part": Part.of_shard(4, 100, run_seed=0)},
        {"part": Part.of_shard(3, 100, run_seed=1)},
        {"part": Part.of_own("a", 100, "ff", run_seed=0)},
        {"version": 6},
        {"settings": config(lr=0.2)},
        {"settings": config(momentum=0.8)},
        {"settings": config(weight_decay=0.0)},
        {"settings": config(nesterov=False)},
        {"settings": config(augment="none")},
        {"settings": config(dtype="bfloat16")},
        {"settings": config(label_smoothing=0.1)},
        {"settings": config(local_epochs=2)},
        {"settings": config(batch_size=31)},
        {"settings": config(schedule="cosine")},
        {"settings": config(warmup=0.3)},
        {"settings": config(rounds=11)},
        {"settings": config("gradient")},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_work_id_stands_for_all_that_determines_the_update(changes: dict[str, Any]) -> None:
    assert order(**changes).work_id != order().work_id


@pytest.mark.parametrize(
    ("work_id", "place"),
    [
        (order(round_=3, step=1, steps=2).work_id, " of round 3, step 1"),
        ("", ""),
        ("0" * 32, ""),
        (f"{'9' * 10}-0-{'a' * 32}", ""),
        (f"1-0-{'a' * 32}\n", ""),
    ],
)
def test_a_work_id_says_where_it_belongs(work_id: str, place: str) -> None:
    assert place_of(work_id) == place


def test_the_seed_of_a_part_depends_on_its_data_and_not_on_who_trains_it() -> None:
    assert Part.of_shard(3, 100, 0).seed != Part.of_shard(4, 100, 0).seed
    assert Part.of_own("a", 100, "ff", 0).seed == Part.of_own("b", 100, "ff", 0).seed
    assert Part.of_own("a", 100, "ff", 0).seed != Part.of_own("a", 100, "fe", 0).seed
    assert Part.of_own("a", 100, "ff", 0).id == Part.own_id("a") == "own-a"
    assert Part.of_shard(3, 100, 0).id == Part.shard_id(3) == "shard-00003"


def test_only_the_leaders_data_has_a_shard_number() -> None:
    assert order(part=Part.of_shard(0, 9, 0)).HasField("shard")
    assert not order(part=Part.of_own("a", 9, "", 0)).HasField("shard")


@pytest.mark.parametrize(
    ("settings", "steps", "local_steps"),
    [
        (config(), 1, 4),
        (config(local_epochs=3), 1, 12),
        (config(local_steps=7), 1, 7),
        (config("gradient"), 5, 1),  # the largest part has 5 batches
        (config("gradient", local_epochs=2), 10, 1),
        (config("gradient", local_steps=7), 7, 1),
    ],
)
def test_exchanges_a_round_and_local_steps_an_order(
    settings: RunConfig, steps: int, local_steps: int
) -> None:
    parts = [PART, Part.of_shard(1, 129, 0)]
    assert WorkPlanner(settings, "run").steps(parts) == steps
    assert order(settings, steps=steps).local_steps == local_steps


@pytest.mark.parametrize(
    ("shards", "own", "steps"),
    [
        ((), (100, 90, 400), 13),  # batches of 32: as always where learners are of like size
        ((), (100, 90, 1_000_000), 16),  # 4 x the median's 4 batches
        ((), (100, 1_000_000), 16),
        ((), (1_000_000,), 31250),
        ((100, 3200), (100, 1_000_000), 100),  # what the leader deals out is no claim
        ((100, 100), (1_000_000,), 16),
    ],
)
def test_no_single_claim_makes_a_round_of_gradients_long(
    shards: tuple[int, ...], own: tuple[int, ...], steps: int
) -> None:
    parts = [Part.of_shard(number, examples, 0) for number, examples in enumerate(shards)]
    parts += [Part.of_own(str(number), examples, "", 0) for number, examples in enumerate(own)]
    assert WorkPlanner(config("gradient"), "run").steps(parts) == steps


@given(rounds=st.integers(1, 20), local_steps=st.integers(0, 5), examples=st.integers(1, 200))
def test_local_batches_follow_one_another_through_the_run(
    rounds: int, local_steps: int, examples: int
) -> None:
    settings = config(rounds=rounds, local_steps=local_steps)
    part = Part.of_shard(0, examples, 0)
    at, progress = 0, 0.0
    for round_ in range(1, rounds + 1):
        work = order(settings, round_=round_, part=part)
        assert work.first_batch == at
        assert work.progress_start == pytest.approx(progress)
        at, progress = work.first_batch + work.local_steps, work.progress_end
    assert progress == 1.0


@given(rounds=st.integers(1, 10), steps=st.integers(1, 10))
def test_every_gradient_exchange_has_the_next_batch_and_its_own_learning_rate(
    rounds: int, steps: int
) -> None:
    settings = config("gradient", rounds=rounds, local_steps=steps, schedule="onecycle", warmup=0)
    planner = WorkPlanner(settings, "run")
    batches, rates = [], []
    for round_ in range(1, rounds + 1):
        for step in range(steps):
            first = (round_ - 1) * steps
            work = order(settings, round_=round_, step=step, steps=steps, first_exchange=first)
            batches.append(work.first_batch)
            rates.append(planner.lr(round_, step, steps))
    assert batches == list(range(rounds * steps))
    total = rounds * steps
    assert rates == pytest.approx([0.1 * (1 - 0.99 * i / total) for i in range(total)])


@pytest.mark.parametrize(
    ("weighting", "buffered", "bound"),
    [
        ("examples", 0, 123),
        ("fednova", 0, 123),
        ("uniform", 0, 2),
        ("qfedavg", 0, 2),
        ("examples", 3, 300),  # all three may come from the largest part
        ("uniform", 3, 3),
    ],
)
def test_the_weight_of_a_round_is_bounded_by_what_its_updates_count(
    weighting: str, buffered: int, bound: int
) -> None:
    settings = RunConfig.model_validate({"aggregate": {"weighting": weighting}, "buffer": {"size": buffered}})
    parts = [PART, Part.of_own("a", 23, "", 0)]
    assert WorkPlanner(settings, "run").weight_bound(parts) == bound


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_the_local_learning_rate_is_the_sum_over_an_orders_steps(schedule: str) -> None:
    settings = config(local_steps=7, schedule=schedule, warmup=0.25)
    work = order(settings, round_=3)
    spread = work.progress_end - work.progress_start
    rate = Schedule(schedule, 0.1, 0.25).at
    expected = math.fsum(rate(work.progress_start + spread * i / 7) for i in range(7))
    planner = WorkPlanner(settings, "run")
    assert planner.local_steps(PART) == work.local_steps == 7
    assert planner.local_lr(3, 0, 1) == 0  # nobody asks for it, and it may be a sum over billions of steps
    train = {"local_steps": 7, "schedule": schedule, "lr": 0.1, "warmup": 0.25}
    plain_sgd = {"momentum": 0, "nesterov": False, "control_variates": True}
    scaffold = RunConfig.model_validate({"rounds": settings.rounds, "train": {**train, **plain_sgd}})
    assert WorkPlanner(scaffold, "run").local_lr(3, 0, 1) == pytest.approx(expected, rel=1e-14)
    momentum = {"momentum": 0.5, "nesterov": False, "control_variates": True, "schedule": "constant"}
    heavy = RunConfig.model_validate({"rounds": settings.rounds, "train": {**train, **momentum}})
    assert WorkPlanner(heavy, "run").local_lr(3, 0, 1) == pytest.approx(0.1 * (7 * 2 - 2 * (1 - 0.5**7)))


def test_orders_ask_for_what_the_algorithms_need() -> None:
    plain = order()
    assert not plain.start_loss
    assert not plain.control_variates
    fair = RunConfig.model_validate({"aggregate": {"weighting": "qfedavg"}})
    assert order(fair).start_loss
    corrected = config(control_variates=True, local_steps=4)
    assert order(corrected).control_variates


def test_learners_score_the_model_they_start_from_every_so_many_rounds_once_a_round() -> None:
    evaluation = {"federated_every": 3, "holdout": 0.1}
    settings = RunConfig.model_validate({"rounds": 9, "evaluation": evaluation})
    assert [r for r in range(1, 9) if order(settings, round_=r).evaluate] == [1, 4, 7]
    stepwise = RunConfig.model_validate({"rounds": 9, "exchange": "gradient", "evaluation": evaluation})
    asked = [order(stepwise, round_=4, step=step, steps=3).evaluate for step in range(3)]
    assert asked == [True, False, False]
    assert not order().evaluate


def buffered(turn: int = 0, version: int = 5, round_: int = 2, staleness: int = 3) -> leader_pb2.WorkOrder:
    planner = WorkPlanner(config(local_steps=7), "run")
    return planner.buffered(PART, OpenWork(round_, turn, version), staleness)


def test_a_buffered_order_is_the_order_of_its_round_with_batches_by_its_turn() -> None:
    work, plain = buffered(turn=4), order(config(local_steps=7))
    assert (work.round, work.step, work.version, work.last_round) == (2, 4, 5, 5)
    assert (work.first_batch, work.local_steps) == (28, 7)
    assert (work.progress_start, work.progress_end) == (plain.progress_start, plain.progress_end)
    assert place_of(work.work_id) == " of round 2, step 4"
    assert work == buffered(turn=4)


def test_a_buffered_order_has_an_id_of_its_own() -> None:
    made = [buffered(), buffered(turn=1), buffered(version=6), buffered(round_=3), buffered(staleness=4)]
    assert len({work.work_id for work in [*made, order(config(local_steps=7))]}) == 6


def test_a_buffered_order_that_may_not_get_old_ends_with_its_round() -> None:
    assert buffered(staleness=0).last_round == buffered().round


def streamed(round_: int, **streaming: Any) -> leader_pb2.WorkOrder:
    settings = config(local_steps=4).model_copy(
        update={"streaming": StreamingConfig.model_validate({"fragments": 3, "mix": 0.25, **streaming})}
    )
    return order(settings, round_=round_)


def test_fragments_take_turns_and_each_comes_back_in_the_round_after_its_own() -> None:
    orders = [streamed(round_) for round_ in range(1, 6)]
    assert [one.fragment for one in orders] == [0, 1, 2, 0, 1]
    assert not orders[0].HasField("fresh")
    assert [one.fresh for one in orders[1:]] == [0, 1, 2, 0]
    assert {(one.fragments, one.overlap_steps, one.mix) for one in orders} == {(3, 0, 0.25)}


def test_a_fragment_is_taken_in_before_the_last_local_step() -> None:
    assert [streamed(2, overlap_steps=steps).overlap_steps for steps in (0, 3, 4, 9)] == [0, 3, 3, 3]


def test_how_fragments_are_exchanged_is_part_of_the_work_id() -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"fragments": 0},
        {"fragments": 4},
        {"overlap_steps": 1},
        {"mix": 0.5},
    ]
    assert len({streamed(2, **one).work_id for one in settings}) == 5


def test_a_masked_round_that_is_tried_again_has_other_batches_and_the_same_examples_held_out() -> None:
    """Else learners would train on what they are scored on in other rounds."""
    planner = WorkPlanner(config(), "secret")
    tries = [planner.masked(order(), PART, leader_pb2.MaskPlan(attempt=attempt)) for attempt in range(3)]
    held = {tuple(holdout_split(100, 0.1, one.seed)[1]) for one in tries}
    sampler = ShardSampler(90, 32, tries[0].seed)
    batches = {tuple(sampler.indices(one.first_batch)) for one in tries}
    assert (len(held), len(batches), len({one.work_id for one in tries})) == (1, 3, 3)
