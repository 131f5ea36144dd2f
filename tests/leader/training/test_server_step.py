from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from torch import nn

from leader.aggregation.base import Contribution, Result
from leader.config import RunConfig
from leader.global_model.versions import next_version
from leader.optimizers.base import State, Step
from leader.optimizers.choose import make_optimizer
from leader.state import RunState
from leader.training.server_step import step_at_once
from model.layout import Layout
from utils.vector import Vector

LAYOUT = Layout.of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
SPLIT, TOTAL = LAYOUT.parameter_count, LAYOUT.total
STEP = Step(0.25, 0.5)


@dataclass
class Halving:
    """A server optimizer that adds half the mean and keeps what it was told."""

    steps: list[Step] = field(default_factory=list)

    def init(self, size: int) -> State:
        """Nothing yet."""
        return {"seen": np.zeros(size, np.float32)}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """Half the mean; the state sums the means."""
        self.steps.append(step)
        return {"seen": state["seen"] + mean}, parameters + mean * np.float32(0.5)


@dataclass(frozen=True)
class Finished:
    """An aggregate that has come to `result`."""

    result: Result

    def add(self, contribution: Contribution) -> None:
        """Nothing is added any more."""

    def finish(self) -> Result:
        """As it was given."""
        return self.result

    def close(self) -> None:
        """Nothing is held."""


def result(examples: int = 30) -> Result:
    return Result(np.arange(TOTAL, dtype=np.float32), examples, 0.5, "abc")


def state() -> RunState:
    return RunState("run", 3, 5, 77, np.full(TOTAL, 100, np.float32), Halving().init(SPLIT))


def test_parameters_go_through_the_optimizer_and_buffers_take_their_mean_change() -> None:
    before = state()
    after, told = step_at_once(before, LAYOUT, Halving(), Finished(result()), STEP, 30)
    values = np.arange(TOTAL, dtype=np.float32)
    assert after.vector[:SPLIT].tolist() == (100 + values[:SPLIT] / 2).tolist()
    assert after.vector[SPLIT:].tolist() == (100 + values[SPLIT:]).tolist()
    assert after.optimizer["seen"].tolist() == values[:SPLIT].tolist()
    assert (told.examples, told.loss) == (30, 0.5)
    assert before.vector.tolist() == [100.0] * TOTAL
    assert before.optimizer["seen"].tolist() == [0.0] * SPLIT


def test_a_step_counts_an_exchange_and_makes_a_version_but_commits_nothing() -> None:
    after, _ = step_at_once(state(), LAYOUT, Halving(), Finished(result()), STEP, 30)
    assert (after.round, after.exchanges, after.version) == (3, 6, next_version(77, "abc"))


@pytest.mark.parametrize(("examples", "everybody", "share"), [(30, 120, 0.25), (30, 30, 1.0), (30, 10, 1.0)])
def test_the_optimizer_hears_what_share_of_all_examples_took_part(
    examples: int, everybody: int, share: float
) -> None:
    optimizer = Halving()
    step_at_once(state(), LAYOUT, optimizer, Finished(result(examples)), STEP, everybody)
    assert optimizer.steps == [Step(0.25, 0.5, share)]


def test_a_streamed_step_leaves_other_fragments_and_their_state_as_they_are() -> None:
    before = replace(state(), optimizer={"seen": np.full(SPLIT, 7, np.float32)})
    fragment = LAYOUT.fragment(1, 2)
    values = np.arange(TOTAL, dtype=np.float32)
    came = replace(result(), mean=fragment.gathered(values))
    after, _ = step_at_once(before, fragment, Halving(), Finished(came), STEP, 30)
    for entry in LAYOUT.entries:
        place = slice(entry.start, entry.start + entry.size)
        if entry in LAYOUT.buffers:
            assert after.vector[place].tolist() == (100 + values[place]).tolist()
        elif entry.name in fragment.local:
            assert set(after.vector[place]) == {100.0}
            assert set(after.optimizer["seen"][place]) == {7.0}
        else:
            assert after.vector[place].tolist() == (100 + values[place] / 2).tolist()
            assert after.optimizer["seen"][place].tolist() == (7 + values[place]).tolist()
    assert set(before.vector) == {100.0}
    assert set(before.optimizer["seen"]) == {7.0}


CONFIGS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_server_optimizer_steps_on_a_slice_as_on_the_whole(name: str) -> None:
    optimizer = make_optimizer(RunConfig.model_validate({"server": {"optimizer": name, "lr": 0.1}}))
    random = np.random.default_rng(3)
    weights, first, second = random.normal(size=(3, 12)).astype(np.float32)
    whole_state, whole = optimizer.apply(optimizer.init(12), weights, first, STEP)
    whole_state, whole = optimizer.apply(whole_state, whole, second, STEP)
    part = slice(3, 8)
    part_state, moved = optimizer.apply(optimizer.init(5), weights[part], first[part], STEP)
    part_state, moved = optimizer.apply(part_state, moved, second[part], STEP)
    assert moved.tobytes() == whole[part].tobytes()
    for key, vector in whole_state.items():
        assert part_state[key].tobytes() == vector[part].tobytes()
