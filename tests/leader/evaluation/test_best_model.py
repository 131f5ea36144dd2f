from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import nn

from leader.evaluation.best_model import Best, BestModel
from leader.metric_names import Mode
from model.flat import FlatModel
from utils.errors import CheckpointError

LAYOUT = FlatModel(nn.Linear(3, 2)).layout


def best_model(folder: Path, metric: str = "test_accuracy", mode: Mode = "auto") -> BestModel:
    return BestModel(folder / "best.safetensors", LAYOUT, "linear", metric, mode)


def offer(kept: BestModel, round_: int, value: float) -> None:
    kept.offer(round_, {kept.metric: value, "test_other": 0.0}, np.full(8, round_, np.float32))


def test_the_file_holds_the_weights_of_the_best_round_and_says_which(tmp_path: Path) -> None:
    kept = best_model(tmp_path)
    for round_, value in enumerate([0.5, 0.75, 0.7, 0.75], start=1):
        offer(kept, round_, value)
    assert kept.best == Best(2, "test_accuracy", 0.75)
    [path] = tmp_path.iterdir()
    tensors = load_file(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"weight": (2, 3), "bias": (2,)}
    assert {float(value) for tensor in tensors.values() for value in tensor.flat} == {2.0}
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {
            "format": "pt",
            "model": "linear",
            "round": "2",
            "metric": "test_accuracy",
            "value": "0.75",
        }


@pytest.mark.parametrize(("metric", "mode", "best"), [("test_loss", "auto", 2), ("test_loss", "max", 3)])
def test_of_a_loss_the_lowest_is_best(tmp_path: Path, metric: str, mode: Mode, best: int) -> None:
    kept = best_model(tmp_path, metric, mode)
    for round_, value in enumerate([2.0, 1.0, 3.0, float("nan")], start=1):
        offer(kept, round_, value)
    assert kept.best is not None
    assert kept.best.round == best


def test_a_resumed_run_goes_on_from_what_the_file_says(tmp_path: Path) -> None:
    offer(best_model(tmp_path), 3, 0.1 + 0.2)
    again = best_model(tmp_path)
    assert again.best == Best(3, "test_accuracy", 0.1 + 0.2)
    content = (tmp_path / "best.safetensors").read_bytes()
    offer(again, 4, 0.25)
    assert (tmp_path / "best.safetensors").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"\xff" * 4000, b"\x02" + b"\x00" * 7 + b"{}"])
def test_a_file_of_something_else_is_replaced_by_the_next_best(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.safetensors").write_bytes(content)
    kept = best_model(tmp_path)
    assert kept.best is None
    offer(kept, 1, 0.0)
    assert best_model(tmp_path).best == Best(1, "test_accuracy", 0.0)


def test_a_file_by_another_metric_says_nothing_about_this_one(tmp_path: Path) -> None:
    offer(best_model(tmp_path), 1, 0.9)
    assert best_model(tmp_path, "test_loss").best is None


def test_scores_without_the_metric_keep_nothing(tmp_path: Path) -> None:
    kept = best_model(tmp_path)
    kept.offer(1, {"test_loss": 1.0}, np.zeros(8, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_written_is_an_error_and_no_best(tmp_path: Path) -> None:
    kept = best_model(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"can't write .*best\.safetensors: No such file"):
        offer(kept, 1, 0.5)
    assert kept.best is None
