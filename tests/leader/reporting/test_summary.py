from __future__ import annotations

import json
from pathlib import Path

from leader.evaluation.best_model import Best
from leader.events import RunFinished, RunStarted
from leader.reporting.summary import summarize, write_summary
from leader.storage.metrics_log import Record

STARTED = RunStarted("r1", Path("runs/r1"), "CIFAR-10", "resnet20", 272474, "delta", 4, "h:1", 2, 1)

BEST = Best(2, "test_accuracy", 0.9)


def record(number: int, accuracy: float | None = None) -> Record:
    fields = {
        "round": number,
        "loss": 1 / number,
        "seconds": 10.5,
        "bytes_up": 7,
        "bytes_down": 5,
        "learners": number,
    }
    return fields if accuracy is None else fields | {"test_accuracy": accuracy}


def test_totals_count_every_round_and_accuracy_is_the_newest(tmp_path: Path) -> None:
    records = [record(1), record(2, 0.9), record(3, 0.8), record(4)]
    path = tmp_path / "summary.json"
    write_summary(path, summarize(records, STARTED, RunFinished(4, 31.5), "ab12", {"PayloadError": 3}, BEST))
    assert json.loads(path.read_text()) == {
        "run": "r1",
        "model": "resnet20",
        "parameters": 272474,
        "dataset": "CIFAR-10",
        "exchange": "delta",
        "learners": 4,
        "rounds": 4,
        "test_accuracy": 0.8,
        "evaluated_round": 3,
        "best": {"round": 2, "metric": "test_accuracy", "value": 0.9},
        "federated": None,
        "federated_round": None,
        "loss": 0.25,
        "seconds": 42.0,
        "bytes_up": 28,
        "bytes_down": 20,
        "refused": {"PayloadError": 3},
        "stopped": None,
        "stopped_early": None,
        "model_sha256": "ab12",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_run_without_evaluation_has_null_and_a_stopped_one_its_reason() -> None:
    summary = summarize([record(1)], STARTED, RunFinished(1, 10.5, "interrupted"), "ab12", {})
    assert summary["test_accuracy"] is None
    assert summary["best"] is None
    assert summary["evaluated_round"] is None
    assert summary["stopped"] == "interrupted"


def test_every_metric_of_the_newest_evaluation_is_told_and_the_learners_newest_scores() -> None:
    scores = {"mae": {"mean": 0.5}}
    records = [record(1) | {"test_mae": 3.0, "test_loss": 2.0}, record(2) | {"federated": scores}, record(3)]
    finished = RunFinished(3, 1.0, stopped_early="enough")
    summary = summarize(records, STARTED, finished, "ab12", {})
    assert (summary["test_mae"], summary["test_loss"], summary["evaluated_round"]) == (3.0, 2.0, 1)
    assert summary["test_accuracy"] is None
    assert (summary["federated"], summary["federated_round"]) == (scores, 2)
    assert (summary["stopped"], summary["stopped_early"]) == (None, "enough")


def test_a_run_that_committed_nothing_has_zero_totals() -> None:
    summary = summarize([], STARTED, RunFinished(0, 0.0, "interrupted"), "ab12", {})
    assert (summary["rounds"], summary["seconds"], summary["bytes_up"], summary["learners"]) == (0, 0, 0, 0)
    assert summary["loss"] is None


def test_a_run_with_trust_keeps_the_head_of_its_audit() -> None:
    finished = RunFinished(0, 0.0)
    assert summarize([], STARTED, finished, "ab12", {}, audit_head="7:ab")["audit_head"] == "7:ab"
    assert "audit_head" not in summarize([], STARTED, finished, "ab12", {})
