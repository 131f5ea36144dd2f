from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from leader.config import EvaluationConfig
from leader.evaluation.best_model import Best, BestModel
from leader.evaluation.evaluator import EvaluationQueue
from leader.evaluation.federated import FederatedScores
from leader.evaluation.tracker import Verdict
from leader.events import Evaluated, EventStream, FederatedEvaluated, RoundCommitted
from leader.storage.metrics_log import Record
from model.flat import FlatModel
from protos import leader_pb2
from utils.vector import Vector


class Run:
    """A verdict and the weights of the round that was committed last: its number in every place."""

    def __init__(self, folder: Path, **keys: object) -> None:
        config = EvaluationConfig.model_validate(keys)
        layout = FlatModel(nn.Linear(3, 2)).layout
        self.best = BestModel(folder / "best.safetensors", layout, "linear", config.metric, config.mode)
        self.round = 0
        evaluations = EvaluationQueue(None, EventStream(), self.best.offer)
        self.verdict = Verdict(config, self.best, evaluations, self.weights)

    def weights(self) -> Vector:
        return np.full(8, self.round, np.float32)

    def commit(self, accuracy_before: float | None = None, tested: float | None = None) -> bool:
        """One more round, in which learners score the model before it; whether it was the last."""
        if accuracy_before is not None:
            self.verdict.on_event(scored(self.round, accuracy_before))
        self.round += 1
        self.verdict.on_event(RoundCommitted(self.round, 1.0, 1.0, 1, 1, 2, 8, 0.1))
        if tested is not None:
            self.verdict.on_event(Evaluated(self.round, {"accuracy": tested, "loss": 1.0}, 0.1))
        return asyncio.run(self.verdict.trained_enough())


def scored(round_: int, accuracy: float) -> FederatedEvaluated:
    scores = FederatedScores()
    scores.add("own-a", (leader_pb2.Metric(name="accuracy", value=accuracy, examples=4),))
    return FederatedEvaluated(round_, scores.spreads())


def test_a_target_on_the_test_split_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, target=0.75)
    assert [run.commit(tested=value) for value in (0.5, 0.8)] == [False, True]
    assert run.verdict.reason == "test_accuracy 0.8 after round 2 reached the target 0.75"


def test_a_target_at_the_learners_ends_the_run_and_their_best_model_is_the_one_they_scored(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, metric="federated.accuracy", target=0.75, holdout=0.1, federated_every=1)
    assert [run.commit(value, tested=1.0) for value in (0.9, 0.5, 0.8)] == [False, False, True]
    assert run.verdict.reason == "federated.accuracy 0.8 after round 2 reached the target 0.75"
    assert run.best.best == Best(2, "federated.accuracy", 0.8)
    tail = (tmp_path / "best.safetensors").read_bytes()[-32:]
    assert np.frombuffer(tail, np.float32).tolist() == [2.0] * 8


def test_a_resumed_run_judges_as_one_that_never_stopped(tmp_path: Path) -> None:
    run = Run(tmp_path, metric="test_loss", patience=3)
    losses = [1.0, None, 2.0, 1.5]  # that of round 2 was not finite
    records: list[Record] = [{"round": 1 + i, "test_loss": loss} for i, loss in enumerate(losses[:3])]
    run.verdict.recall(records, None)
    assert not asyncio.run(run.verdict.trained_enough())
    run.verdict.recall([*records, {"round": 4}, {"round": 5, "test_loss": 1.5}], None)
    assert asyncio.run(run.verdict.trained_enough())
    assert run.verdict.reason == "test_loss has not been better than 1 (round 1) in the last 3 evaluations"


def test_scores_told_again_after_a_crash_keep_the_model_of_the_round_before(tmp_path: Path) -> None:
    run = Run(tmp_path, metric="federated.accuracy", holdout=0.1, federated_every=1)
    event = scored(4, 0.5)
    run.verdict.recall([{"round": 4, "federated": event.scores}], np.full(8, 4, np.float32))
    run.verdict.on_event(event)
    assert not asyncio.run(run.verdict.trained_enough())
    assert run.best.best == Best(4, "federated.accuracy", 0.5)


def test_a_metric_that_nobody_measures_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, metric="test_acuracy", target=0.5)
    with caplog.at_level(logging.WARNING):
        assert [run.commit(tested=0.9) for _ in range(2)] == [False, False]
    [warning] = caplog.messages
    assert "evaluation.metric is test_acuracy, but what is measured is test_accuracy, test_loss" in warning
