from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader.cli import parse
from leader.data.dataset import open_data
from leader.global_model.initial import open_origin
from leader.initial_state import initial_state, open_folder, resumed_state
from leader.state import RunState, Seats
from leader.storage.checkpoint import save_checkpoint
from tests.clusters import TINY
from utils.errors import CheckpointError

NOTHING = np.zeros(0, np.float32)


def without_optimizer(state: RunState) -> RunState:
    return replace(state, optimizer={})


def with_a_short_velocity(state: RunState) -> RunState:
    return replace(state, optimizer={"velocity": state.optimizer["velocity"][:-1]})


def with_other_moments(state: RunState) -> RunState:
    return replace(state, optimizer={"second": state.optimizer["velocity"]})


def of_a_smaller_model(state: RunState) -> RunState:
    return replace(state, vector=state.vector[:-1])


def with_an_example_too_many(state: RunState) -> RunState:
    return replace(state, seats=Seats((np.array([0, 7]), np.array([8])), {}, 0))


@pytest.mark.parametrize(
    "change",
    [
        without_optimizer,
        with_a_short_velocity,
        with_other_moments,
        of_a_smaller_model,
        with_an_example_too_many,
    ],
)
def test_a_checkpoint_that_does_not_fit_the_run_gives_way_to_the_one_before(
    tmp_path: Path, change: Callable[[RunState], RunState], caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**TINY, "server.optimizer": "fedavgm"}
    flags = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    config, run = open_folder(parse(["--run-dir", str(tmp_path / "run"), *flags], {}).config, resume=False)
    origin = open_origin(config, open_data(config).classes)
    begun = replace(initial_state(config, origin), seats=Seats((np.array([7]),), {}, 0))
    before = save_checkpoint(run.checkpoints, begun, keep=2, config="")
    save_checkpoint(run.checkpoints, change(replace(begun, round=1)), keep=2, config="")
    found = resumed_state(config, run, origin.layout, 8)
    nothing: dict[str, Any] = {"vector": NOTHING, "optimizer": {}, "seats": None}
    assert replace(found, **nothing) == replace(begun, **nothing)
    [told] = caplog.messages
    assert told.startswith("checkpoint round-00000001.safetensors is damaged: it ")
    assert told.endswith("; was config.yaml of the run folder changed?; trying the one before")
    before.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        resumed_state(config, run, origin.layout, 8)
