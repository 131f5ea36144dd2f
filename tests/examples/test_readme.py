"""Every example of examples/README.md: its commands run, and what they train is good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.examples.commands import README, commands_in, commands_of, environment, play
from tests.tools.needs import needs
from utils.datasets.image_folder import load_image_folder

EXAMPLES = README.parent
PREDICT = """
import sys, numpy
from pathlib import Path
from safetensors.numpy import load_file
from examples.keras_learner import load_network

run_dir, folder = map(Path, sys.argv[1:])
network = load_network(load_file(run_dir / "model.safetensors"))
numpy.save(folder / "given.npy", network.predict(numpy.load(folder / "rows.npy"), verbose=0))
"""
MODULES = {
    "Tables": "tabular_task.py",
    "Adapters": "lora_task.py",
    "scikit-learn": "sklearn_task.py",
    "Keras": "keras_learner.py",
    "JAX": "jax_learner.py",
    "Minimal": "minimal_learner.py",
}


def summary(section: str, folder: Path) -> dict[str, Any]:
    """What the run of a section came to."""
    found: dict[str, Any] = json.loads((play(section, folder) / "summary.json").read_text())
    return found


@pytest.mark.parametrize("section", MODULES)
def test_module_and_readme_give_the_same_commands(section: str) -> None:
    module = (EXAMPLES / MODULES[section]).read_text(encoding="utf-8")
    given = commands_of(section)
    assert sum(command.startswith("python -m leader ") for command in given) == 1
    assert commands_in(module.split('"""')[1]) == given


def test_the_minimal_learner_is_short() -> None:
    assert len((EXAMPLES / "minimal_learner.py").read_text(encoding="utf-8").splitlines()) < 100


def test_learners_with_image_folders_score_the_model_themselves(tmp_path: Path) -> None:
    found = summary("Images", tmp_path)
    assert (found["rounds"], found["learners"], found["test_accuracy"]) == (5, 2, None)
    scored = found["federated"]["accuracy"]
    assert scored["examples"] == 2 * (719 // 5)
    assert scored["mean"] > 0.9


def test_the_task_of_tables_is_scored_by_its_own_metrics(tmp_path: Path) -> None:
    found = summary("Tables", tmp_path)
    assert (found["rounds"], found["learners"], found["parameters"]) == (30, 3, 60 + 30 * 16 + 16 + 17)
    assert found["test_accuracy"] > 0.92
    assert found["test_found"] > 0.95
    assert found["test_auc"] > 0.98


def test_scikit_learn_trains_the_linear_layer(tmp_path: Path) -> None:
    found = summary("scikit-learn", tmp_path)
    assert (found["rounds"], found["learners"], found["parameters"]) == (15, 2, 650)
    assert found["test_accuracy"] > 0.93


# Keras reads its variables as NumPy 1 did.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@needs("jax")
@needs("keras")
def test_keras_trains_a_model_that_loads_back_into_keras(tmp_path: Path) -> None:
    run_dir = play("Keras", tmp_path)
    scored = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert scored[-1]["test_loss"] < scored[0]["test_loss"] / 2
    assert scored[-1]["test_accuracy"] > 0.9
    weights = load_file(run_dir / "model.safetensors")
    rows = np.loadtxt(tmp_path / "data" / "digits" / "test.csv", np.float32, delimiter=",")
    np.save(tmp_path / "rows.npy", rows[:, :-1] / 16)
    # In a process of its own: JAX, once it is here, warns of each fork of the tests after this one.
    predict = [sys.executable, "-c", PREDICT, str(run_dir), str(tmp_path)]
    subprocess.run(predict, cwd=README.parents[1], env=environment(tmp_path), check=True)
    given = np.load(tmp_path / "given.npy")
    assert np.mean(given.argmax(1) == rows[:, -1]) == pytest.approx(scored[-1]["test_accuracy"])
    hidden = np.maximum(rows[:, :-1] / 16 @ weights["hidden_kernel"] + weights["hidden_bias"], 0)
    scores = np.exp(hidden @ weights["output_kernel"] + weights["output_bias"])
    np.testing.assert_allclose(given, scores / scores.sum(1, keepdims=True), atol=1e-5)


@needs("jax")
def test_jax_learners_train_a_model_that_the_leader_knows_by_its_tensors_alone(tmp_path: Path) -> None:
    found = summary("JAX", tmp_path)
    assert (found["rounds"], found["learners"], found["parameters"]) == (20, 2, 65 * 32 + 33 * 10)
    scored = found["federated"]["accuracy"]
    assert scored["examples"] == 2 * (719 // 10)
    assert scored["mean"] > 0.93


def test_the_minimal_learner_trains_softmax_regression(tmp_path: Path) -> None:
    run_dir = play("Minimal", tmp_path)
    weights = load_file(run_dir / "model.safetensors")
    test = load_image_folder(tmp_path / "data" / "photos").test
    assert test is not None
    pixels = test.images.reshape(-1, 3, 8, 4, 8, 4).mean((1, 3, 5)).reshape(-1, 64) / 255
    right = (pixels @ weights["weight"].T + weights["bias"]).argmax(1) == test.labels
    assert len(right) == 359
    assert np.mean(right) > 0.9
