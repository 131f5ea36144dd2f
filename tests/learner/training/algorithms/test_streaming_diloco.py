"""Learner and leader together against the whole of Streaming DiLoCo, in float64 and without Flockstep."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leader.aggregation.base import Contribution
from leader.aggregation.choose import open_aggregate
from leader.aggregation.decoding import Decoder
from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig, ServerConfig, StreamingConfig, TrainConfig
from leader.data.part import Part
from leader.optimizers.base import Step
from leader.optimizers.choose import make_optimizer
from leader.state import RunState
from leader.training.server_step import step_at_once
from leader.training.work_orders import WorkPlanner
from learner.memory import Memory
from learner.training.algorithms.streaming_diloco import check_streaming, next_order, replica_of, same_steps
from learner.wire.transfer import Download
from learner.wire.whole_update import HeldUpdate
from learner.work.prefetch import Ahead
from learner.work.workbench import Tools, Workbench
from model.flat import FlatModel
from model.fragments import Fragments
from protos import leader_pb2
from tests.learner.training.algorithms.regression import Doubles, Points, Regression, points
from utils.batches import ShardSampler
from utils.errors import IncompatibleError, PayloadError
from utils.wire.payload import Payload, PayloadReader

FEATURES, STEPS, LR, BATCH = 3, 4, 0.05, 3
REGRESSION = Regression(FEATURES, bias=True)
SIZES = (6, 9)  # examples of each learner
#: Elements of the model's two tensors, in the order of their fragments.
TENSORS = {"weight": slice(0, 3), "bias": slice(3, 4)}
OUTER_LR, OUTER_MOMENTUM, INNER_MOMENTUM = 0.7, 0.9, 0.5


def points_of(number: int) -> Points:
    return points(number, SIZES[number], FEATURES, 2 * number + 1)


def config(
    *,
    fragments: int = 2,
    overlap: int = 1,
    mix: float = 0.5,
    rounds: int = 7,
    momentum: float = INNER_MOMENTUM,
) -> RunConfig:
    return RunConfig(
        rounds=rounds,
        train=TrainConfig(
            local_steps=STEPS,
            batch_size=BATCH,
            lr=LR,
            schedule="constant",
            momentum=momentum,
            nesterov=False,
            weight_decay=0,
            dtype="float32",
        ),
        server=ServerConfig(optimizer="diloco", lr=OUTER_LR, momentum=OUTER_MOMENTUM),
        streaming=StreamingConfig(fragments=fragments, overlap_steps=overlap, mix=mix),
    )


class Learner:
    """One learner, between its memory and the file that it sends."""

    def __init__(self, number: int, *, ahead: bool = False) -> None:
        self.points = points_of(number)
        self.part = Part.of_own(str(number), SIZES[number], "", 11)
        self.memory = Memory()
        self.bench = Workbench(RUN, Tools(torch.device("cpu"), REGRESSION), self.memory)
        self._ahead = Ahead(ThreadPoolExecutor(1)) if ahead else None
        self.begun = 0  # orders that were begun before they came

    def update(self, order: leader_pb2.WorkOrder, base: NDArray[np.float32]) -> Payload:
        """The update of `order` from `base`, as the leader reads it; it counts, and its round is committed."""
        check_streaming(order)
        head = self._ahead.take(order, self.part.id)() if self._ahead else None
        self.begun += head is not None
        update, held = self.bench.make(order, Download(base), self.points, self.part.id, head=head)
        assert isinstance(held, HeldUpdate)
        if self._ahead:
            self._ahead.begin(self.bench, order, self.points, self.part.id, update)
        self.memory.counted(self.part.id)
        self.memory.committed(order.round)
        reader = PayloadReader(max_bytes=1 << 20, header_bytes=1 << 16)
        reader.feed(held.file.header)
        reader.feed(held.file.body.data)
        return reader.finish()


RUN = leader_pb2.RunDescription(run_id="run", own_task=True, piece_bytes=1 << 20)
LAYOUT = FlatModel(REGRESSION.build_model(0)).layout


def flockstep(run: RunConfig, cohorts: list[list[Learner]]) -> list[NDArray[np.float32]]:
    """The leader's model after a round with each of these cohorts."""
    count = run.streaming.fragments
    optimizer, planner = make_optimizer(run), WorkPlanner(run, "run")
    decoder = Decoder(run.codec, LAYOUT, count)
    state = RunState("run", 0, 0, 1, np.zeros(4, np.float32), optimizer.init(4))
    models = []
    for round_, cohort in enumerate(cohorts, start=1):
        shared = Fragments(LAYOUT, count).of(round_)
        aggregate = open_aggregate(run, shared, Scale.of(1024, 1 << 10), None)
        for learner in cohort:
            order = planner.order(round_, 0, 1, learner.part, version=state.version, first_exchange=0)
            payload = learner.update(order, state.vector)
            decoder.check(payload.manifest)
            sent = decoder.decode(payload)
            aggregate.add(Contribution(learner.part.id, learner.part.examples, sent, loss=0.0))
        state, _ = step_at_once(state, shared, optimizer, aggregate, Step(LR), sum(SIZES))
        state = RunState("run", round_, round_, state.version, state.vector, state.optimizer)
        models.append(state.vector)
    return models


def algorithm_2(run: RunConfig, cohorts: list[list[int]], forgotten: int = 0) -> list[Doubles]:
    """Streaming DiLoCo on Regression: the global weights after a round with each of these cohorts.

    Learners have forgotten their own weights when round `forgotten` begins.
    """
    streaming = run.streaming
    fragments = {1: [slice(0, 4)], 2: list(TENSORS.values())}[streaming.fragments]
    world, velocity = np.zeros(4), np.zeros(4)
    #: Weights and momentum of each learner, and the round that made them.
    own: dict[int, tuple[int, Doubles, Doubles]] = {}
    models = []
    for round_, cohort in enumerate(cohorts, start=1):
        turn, before = (fragments[(round_ - which) % len(fragments)] for which in (1, 2))
        total, outer = sum(SIZES[number] for number in cohort), np.zeros(4)
        if round_ == forgotten:
            own.clear()
        for number in cohort:
            made, theta, momentum = own.get(number, (0, world, np.zeros(4)))
            streams = round_ > 1 and made == round_ - 1
            theta, momentum = (theta.copy(), momentum) if streams else (world.copy(), np.zeros(4))
            part = Part.of_own(str(number), SIZES[number], "", 11)
            sampler, data = ShardSampler(SIZES[number], BATCH, part.seed), points_of(number)
            for step in range(STEPS):
                if streams and step == streaming.overlap_steps:
                    theta[before] = streaming.mix * theta[before] + (1 - streaming.mix) * world[before]
                chosen = np.sort(sampler.indices((round_ - 1) * STEPS + step))
                a = np.column_stack([data.x[chosen], np.ones(len(chosen))])
                gradient = 2 * a.T @ (a @ theta - data.y[chosen]) / len(chosen)
                momentum = INNER_MOMENTUM * momentum + gradient
                theta = theta - LR * momentum
            own[number] = round_, theta, momentum
            outer[turn] += SIZES[number] / total * (world - theta)[turn]
        velocity[turn] = OUTER_MOMENTUM * velocity[turn] + outer[turn]
        world = world.copy()
        world[turn] -= OUTER_LR * (outer[turn] + OUTER_MOMENTUM * velocity[turn])
        models.append(world)
    return models


@pytest.mark.parametrize(
    "run",
    [config(), config(overlap=0), config(overlap=3, mix=0.25), config(mix=0), config(fragments=1, overlap=2)],
    ids=["both", "at once", "late", "theirs", "one fragment"],
)
@pytest.mark.parametrize(
    "cohorts",
    [[[0]] * 3, [[0, 1]] * 5, [[0, 1], [0, 1], [1], [0, 1], [0, 1]]],
    ids=["one learner", "two learners", "one misses a round"],
)
def test_the_run_follows_the_papers_algorithm(run: RunConfig, cohorts: list[list[int]]) -> None:
    learners = [Learner(number) for number in range(2)]
    ours = flockstep(run, [[learners[number] for number in cohort] for cohort in cohorts])
    theirs = algorithm_2(run, cohorts)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.abs(theirs[-1]).min() > 0.01


def test_a_round_changes_its_fragment_alone() -> None:
    first, second, third = flockstep(config(), [[Learner(0)]] * 3)
    weight, bias = TENSORS.values()
    assert first[weight].all()
    assert not first[bias].any()
    assert (second[weight] == first[weight]).all()
    assert second[bias].all()
    assert (third[bias] == second[bias]).all()
    assert (third[weight] != second[weight]).all()


def test_one_fragment_that_is_taken_in_whole_and_at_once_is_diloco_bit_for_bit() -> None:
    """Without momentum in the local steps, which goes on over rounds here and starts anew there."""
    streamed = flockstep(config(fragments=1, overlap=0, mix=0, momentum=0), [[Learner(0)]] * 4)
    plain = flockstep(config(fragments=0, overlap=0, momentum=0), [[Learner(0)]] * 4)
    assert np.stack(streamed).tobytes() == np.stack(plain).tobytes()


def test_a_learner_without_memory_starts_from_the_leaders_model() -> None:
    before, after = Learner(0), Learner(0)
    ours = flockstep(config(), [[before]] * 3 + [[after]] * 3)
    np.testing.assert_allclose(ours, algorithm_2(config(), [[0]] * 6, forgotten=4), rtol=1e-5)
    assert not np.allclose(ours, flockstep(config(), [[Learner(0)]] * 6))


@pytest.mark.parametrize("overlap", [1, 3])
def test_what_is_begun_before_the_order_comes_changes_no_bit(overlap: int) -> None:
    quick, plain = Learner(0, ahead=True), Learner(0)
    run = config(overlap=overlap)
    ahead, later = (flockstep(run, [[learner]] * 7) for learner in (quick, plain))
    assert np.stack(ahead).tobytes() == np.stack(later).tobytes()
    assert (quick.begun, plain.begun) == (6, 0)


def test_nothing_is_begun_where_the_fragment_is_taken_in_at_once_or_no_round_is_left() -> None:
    learner = Learner(0, ahead=True)
    flockstep(config(overlap=0), [[learner]] * 3)
    flockstep(config(rounds=1), [[learner]])
    assert learner.begun == 0


def order(round_: int = 3, **changes: Any) -> leader_pb2.WorkOrder:
    part = Learner(0).part
    made = WorkPlanner(config(), "run").order(round_, 0, 1, part, version=round_, first_exchange=0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("round_", [1, 2, 6])
def test_the_next_order_is_foreseen_but_for_its_version_and_id(round_: int) -> None:
    foreseen, came = next_order(order(round_)), order(round_ + 1)
    assert foreseen is not None
    assert same_steps(foreseen, came)
    assert foreseen.work_id != came.work_id
    assert not same_steps(foreseen, order(round_ + 1, seed=5))
    assert not same_steps(foreseen, order(round_ + 2))


@pytest.mark.parametrize("progress_end", [0.0, 5e-324, 1.0, 1.5])
def test_nothing_is_foreseen_after_the_last_round_or_of_nonsense(progress_end: float) -> None:
    assert next_order(order(progress_end=progress_end)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"fragment": 2},
        {"fresh": 2},
        {"overlap_steps": STEPS},
        {"mix": 1.5},
        {"mix": math.nan},
        {"exchange": "gradient"},
        {"fragments": 1},
    ],
)
def test_an_order_that_says_nothing_that_could_be_done_is_refused(change: dict[str, Any]) -> None:
    check_streaming(order())
    with pytest.raises(PayloadError, match="work order for fragment"):
        check_streaming(order(**change))


def test_more_fragments_than_tensors_are_refused() -> None:
    learner = Learner(0)
    with pytest.raises(IncompatibleError, match="the model has 2 tensors to make them of"):
        learner.update(order(fragments=3), np.zeros(4, np.float32))


@pytest.mark.parametrize("changed", [{"replica": 5}, {"velocity": 3}])
def test_a_replica_of_another_model_is_refused(changed: dict[str, int]) -> None:
    sizes = {"replica": 4, "velocity": 4, **changed}
    kept = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    kept["replica_round"] = np.array([2], np.float32)
    with pytest.raises(IncompatibleError, match="use another --state-dir"):
        replica_of(order(), kept, LAYOUT)
    assert replica_of(order(4), kept, LAYOUT) is None
