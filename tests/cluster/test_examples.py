"""Runs in which each learner hides its examples in its own training: what is told, what is charged, and who stops."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from leader.events import RoundCommitted, UpdateAccepted
from leader.learners.eligibility import Eligibility
from learner.training.example_privacy import ExamplePrivacy
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, play
from tests.integration.noise_task import Rows
from utils.dp.sampled_gaussian import divergences_of, epsilon_of
from utils.errors import ConfigError, IncompatibleError, PayloadError, PrivacyError

TASK = "tests.integration.noise_task:NormlessNoise"
EXAMPLES: Settings = {**TINY, "model.task": TASK, "dp.mode": "examples", "train.batch_size": 6}
MASKED: Settings = {**EXAMPLES, "learners": 3, "secagg.mode": "masked"}


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]


class Heard(Worker):
    """Remembers what its updates say beside their values."""

    said: ClassVar[list[Any]] = []

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        Heard.said.append(held.said)
        await super()._send(to, held, resume=resume)


@pytest.mark.parametrize(
    "settings", [EXAMPLES, MASKED, {**MASKED, "buffer.size": 3}], ids=["plain", "masked", "groups"]
)
def test_a_run_keeps_a_ledger_at_each_learner_and_tells_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    Heard.said.clear()

    async def scenario(cluster: Cluster) -> None:
        for name in "abc"[: cluster.config.learners]:
            join(cluster, name, worker=Heard, task=TASK, state_dir=tmp_path / name)
        await cluster.finished()
        assert [line["loss"] for line in cluster.metrics] == [None] * 3
        told = cluster.summary["privacy"]
        assert (told["mode"], told["unit"], told["epsilon"], told["spent_max"]) == (
            "examples",
            "example",
            8.0,
            None,
        )
        assert told.get("least") == (3 if "secagg.mode" in settings else None)

    with caplog.at_level(logging.INFO):
        cluster = play(scenario, settings)
    assert all(
        math.isnan(event.loss) for event in cluster.seen(UpdateAccepted) + cluster.seen(RoundCommitted)
    )
    assert all(not said.HasField("start_loss") and not said.metrics for said in Heard.said)
    assert all(math.isnan(said.loss) or said.loss == 0 for said in Heard.said)
    for name in "abc"[: cluster.config.learners]:
        found = entries(tmp_path / name)
        assert [(entry["round"], entry["steps"], entry["rate"]) for entry in found] == [
            (n, 2, 0.25) for n in (1, 2, 3)
        ]
        spent = sum(entry["steps"] * divergences_of(entry["rate"], entry["z"]) for entry in found)
        planned = 4 / 3 if "buffer.size" in settings else 1  # an order more in asynchronous runs
        assert 7.9 < epsilon_of(planned * spent, 1e-5) <= 8.0
    assert (
        "privacy of each example: epsilon 8 at delta 1e-05 over the run, against the leader and whoever"
        in caplog.text
    )
    told = "7.18" if "buffer.size" in settings else "8"
    assert (
        f"round 3: each example: epsilon {told} of 8 at delta 1e-05 in this run, {told} in all" in caplog.text
    )


def test_a_learner_without_a_folder_for_its_ledger_takes_no_part() -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", task=TASK))
        assert isinstance(error, PrivacyError)
        assert "start the learner with --state-dir" in str(error)

    play(scenario, {**EXAMPLES, "learners": 1})


def test_a_model_with_batch_norm_is_refused_by_the_leader_already() -> None:
    async def never(cluster: Cluster) -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match=r"dp.mode is examples, but the model has 'norm\.running_mean'"):
        play(never, {**EXAMPLES, "model.task": TINY["model.task"]})


def test_batch_norm_whose_statistics_stay_at_home_is_refused_by_the_learner(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        error = await cluster.failed(join(cluster, "a", state_dir=tmp_path / "a"))
        assert isinstance(error, IncompatibleError)
        assert "batch norm, which mixes examples" in str(error)
        assert not (tmp_path / "a" / "privacy.jsonl").exists()

    settings = {**EXAMPLES, "model.task": TINY["model.task"], "model.local": "norm.*", "learners": 1}
    play(scenario, settings)


def test_who_has_spent_its_budget_stops_for_good_and_the_others_go_on(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "bc":
            join(cluster, name, task=TASK, state_dir=tmp_path / name)
        spends = join(cluster, "a", task=TASK, state_dir=tmp_path / "a", dp_budget=5.5)
        error = await cluster.failed(spends)
        assert isinstance(error, PrivacyError)
        assert "(--dp-budget); it takes part no more" in str(error)
        await cluster.finished()

    run = play(scenario, {**EXAMPLES, "learners": 3, "cohort.quorum": 0.5})
    paid = [entry for entry in entries(tmp_path / "a") if "run" in entry]
    assert 1 <= len(paid) < 3
    assert len(run.seen(RoundCommitted)) == 3
    with pytest.raises(PrivacyError, match="is spent"):
        ExamplePrivacy(tmp_path / "a", None, 5.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [0.0, 5.5])
def test_who_has_a_budget_does_no_work_without_noise_and_tells_no_hash_of_its_data_but_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float
) -> None:
    told, kept, accept = list[str](), list[str](), Eligibility.check

    def heard(self: Eligibility, info: leader_pb2.LearnerInfo, others: int) -> None:
        told.append(info.own_data.fingerprint)
        accept(self, info, others)

    class Privacy(ExamplePrivacy):
        def __init__(self, *given: Any) -> None:
            kept.append(given[-1])
            super().__init__(*given)

    monkeypatch.setattr("learner.app.ExamplePrivacy", Privacy)
    monkeypatch.setattr(Eligibility, "check", heard)
    monkeypatch.setattr(Rows, "fingerprint", lambda rows: "of all", raising=False)

    async def scenario(cluster: Cluster) -> None:
        learner = join(cluster, "a", task=TASK, state_dir=tmp_path / "a", dp_budget=budget)
        if not budget:
            await cluster.finished()
            return
        error = await cluster.failed(learner)
        assert isinstance(error, PayloadError)
        assert "work without noise for each example" in str(error)

    play(scenario, {**EXAMPLES, "dp.mode": "off", "learners": 1, "rounds": 1})
    assert told == ["" if budget else "of all"]
    assert kept == ["of all"]
