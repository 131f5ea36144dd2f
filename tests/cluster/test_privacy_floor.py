"""Learners that ask for differential privacy: which real leaders they work for, and which they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leader.training.work_orders import WorkPlanner
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_distributed_noise import SHARED
from tests.cluster.test_examples import EXAMPLES, TASK
from tests.clusters import TINY, Settings, join, play
from utils.errors import FlockstepError, PayloadError

CENTRAL: Settings = {
    **TINY,
    "dp.mode": "central",
    "aggregate.weighting": "uniform",
    "model.local": "norm.*",
}


@pytest.mark.parametrize("settings", [CENTRAL, SHARED, EXAMPLES], ids=["central", "distributed", "examples"])
def test_a_run_that_promises_enough_has_all_of_them(tmp_path: Path, settings: Settings) -> None:
    task = TASK if settings is EXAMPLES else TINY["model.task"]

    async def scenario(cluster: Cluster) -> None:
        for name in "abcd"[: cluster.config.learners]:
            join(cluster, name, task=task, state_dir=tmp_path / name, require_dp=8)
        await cluster.finished()
        assert cluster.summary["privacy"]["mode"] == settings["dp.mode"]

    play(scenario, {**settings, "rounds": 1})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TINY, "the leader promises no differential privacy, and this learner takes part in no run without"),
        (CENTRAL, "epsilon 8 at delta 1e-05 is promised, this learner asks for 7.9 at 0.0001 or less"),
    ],
    ids=["none", "more"],
)
def test_a_run_that_promises_less_is_left_before_any_work(settings: Settings, why: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", require_dp=7.9))
        assert isinstance(error, PayloadError)
        assert str(error).startswith(why)
        assert error.exit_code == FlockstepError.exit_code  # as --secagg require ends

    play(scenario, {**settings, "learners": 1})


def test_a_leader_whose_orders_are_not_what_it_promised_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = WorkPlanner.order

    def lying(self: WorkPlanner, *said: Any, **more: Any) -> leader_pb2.WorkOrder:
        order = honest(self, *said, **more)
        order.ClearField("examples")
        return order

    monkeypatch.setattr(WorkPlanner, "order", lying)

    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", task=TASK, state_dir=tmp_path, require_dp=8))
        assert "but the leader asks for work without noise for each example (--require-dp)" in str(error)

    play(scenario, {**EXAMPLES, "learners": 1})
