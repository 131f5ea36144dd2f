from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from leader.config import RunConfig
from leader.global_model.initial import Origin, model_title, open_origin, tensors_of, weights_metadata
from model.flat import FlatModel
from model.image_classification import ImageClassification
from model.registry import build_model
from utils.errors import ConfigError

Arrays = dict[str, NDArray[np.generic]]
ARRAYS: Arrays = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(2, dtype=np.float32) - 5,
    "c.running_mean": np.full(3, 7, np.float32),
    "d.scalar": np.array(9, np.float32),
}


def config(*, holder: str = "learner", **model: Any) -> RunConfig:
    return RunConfig.model_validate({"seed": 3, "data": {"holder": holder}, "model": model})


def alone(path: Path) -> Origin:
    """What a leader makes of a file of weights and nothing else."""
    return open_origin(config(name="", weights=path), 0)


def refusal(path: Path, **model: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        open_origin(config(**{"name": "", "weights": path, **model}), 10)
    return str(caught.value)


def written(tmp_path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(arrays, path, metadata)
    return path


def test_a_model_of_the_registry_has_the_runs_seed_and_classes() -> None:
    origin = open_origin(config(name="resnet20", norm="group", holder="leader"), 7)
    expected = FlatModel(build_model("resnet20", classes=7, norm="group", seed=3))
    assert origin.layout == expected.layout
    assert origin.vector.tobytes() == expected.snapshot().numpy().tobytes()
    assert origin.task == ImageClassification(model="resnet20", norm="group", classes=7)
    assert origin.model is not None
    assert not origin.own


def test_a_task_brings_the_model_and_learners_must_bring_it_too() -> None:
    name = "model.image_classification:ImageClassification"
    origin = open_origin(config(task=name, local="*.norm.weight, *.norm.running*"), 0)
    expected = FlatModel(ImageClassification().build_model(3))
    assert origin.vector.tobytes() == expected.snapshot().numpy().tobytes()
    assert origin.own
    assert {name.rpartition(".")[2] for name in origin.layout.local} == {
        "weight",
        "running_mean",
        "running_var",
    }
    assert all(".norm." in name for name in origin.layout.local)
    assert model_title(config(task=name)) == "ImageClassification"


def test_a_file_alone_is_a_model_without_a_task(tmp_path: Path) -> None:
    origin = alone(written(tmp_path, ARRAYS, {"buffers": '["c.running_mean"]'}))
    assert (origin.task, origin.model, origin.own) == (None, None, True)
    layout = origin.layout
    assert {entry.name for entry in layout.parameters} == {"b.weight", "a.bias", "d.scalar"}
    assert [entry.name for entry in layout.buffers] == ["c.running_mean"]
    assert (layout.parameter_count, layout.total) == (9, 12)
    for entry in layout.entries:
        inside = origin.vector[entry.start : entry.start + entry.size].reshape(entry.shape)
        np.testing.assert_array_equal(inside, ARRAYS[entry.name])
    assert model_title(config(name="", weights=tmp_path / "x")) == "weights"


def test_without_metadata_every_tensor_trains(tmp_path: Path) -> None:
    layout = alone(written(tmp_path, ARRAYS)).layout
    assert {entry.name for entry in layout.parameters} == set(ARRAYS)
    assert layout.buffers == ()


def test_a_file_gives_a_known_model_its_weights(tmp_path: Path) -> None:
    model = FlatModel(build_model("resnet20", seed=8))
    arrays: Arrays = {name: tensor.numpy() for name, tensor in tensors_of(model).items()}
    path = written(tmp_path, arrays, weights_metadata(model.layout))
    for origin in (
        open_origin(config(name="resnet20", weights=path), 10),
        alone(path),
    ):
        by_name = {
            entry.name: origin.vector[entry.start : entry.start + entry.size].reshape(entry.shape)
            for entry in origin.layout.entries
        }
        assert by_name.keys() == arrays.keys()
        assert all(by_name[name].tobytes() == arrays[name].tobytes() for name in arrays)
        assert {entry.name for entry in origin.layout.buffers} == {e.name for e in model.layout.buffers}
    assert (
        open_origin(config(name="resnet20", weights=path), 10).vector.tobytes()
        == model.snapshot().numpy().tobytes()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"head.linear.weight": None},
            "the model has 'head.linear.weight' as F32[10, 64], the file has it not at all",
        ),
        (
            {"head.linear.weight": np.zeros((11, 64), np.float32)},
            "the model has 'head.linear.weight' as F32[10, 64], the file has it as F32[11, 64]",
        ),
        (
            {"head.linear.bias": np.zeros(10, np.float16)},
            "the model has 'head.linear.bias' as F32[10], the file has it as F16[10]",
        ),
        (
            {"extra": np.zeros(1, np.int64)},
            "the file has 'extra', which is no parameter that trains and no float buffer of the model; leave it out",
        ),
        ({"head.linear.bias": np.full(10, np.nan, np.float32)}, "the file has values that are not finite"),
    ],
)
def test_a_file_that_is_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, NDArray[np.generic] | None], message: str
) -> None:
    arrays: Arrays = {n: t.numpy() for n, t in tensors_of(FlatModel(build_model("resnet20"))).items()}
    assert "head.linear.weight" in arrays
    changed = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    assert refusal(written(tmp_path, changed), name="resnet20") == f"model.weights: {message}"


@pytest.mark.parametrize(
    ("arrays", "buffers", "message"),
    [
        (
            {**ARRAYS, "n": np.zeros(1, np.int64)},
            "[]",
            "'n' is I64; all tensors must be F32, as python -m scripts.weights writes them",
        ),
        ({"a": np.zeros(2, np.float32)}, '["a"]', "the file has no tensor that trains"),
        (ARRAYS, "{}", "metadata 'buffers' is '{}'; it must be a JSON list of names"),
        (ARRAYS, "[1]", "metadata 'buffers' is '[1]'; it must be a JSON list of names"),
        (ARRAYS, "no", "metadata 'buffers' is 'no'; it must be a JSON list of names"),
        (ARRAYS, '["e", "a.bias"]', "metadata 'buffers' has 'e', the file has it not at all"),
        ({"a": np.full(2, np.inf, np.float32)}, "[]", "the file has values that are not finite"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, arrays: Arrays, buffers: str, message: str
) -> None:
    assert refusal(written(tmp_path, arrays, {"buffers": buffers})) == f"model.weights: {message}"


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    assert refusal(path).startswith(f"model.weights: {path} can't be read as a safetensors file: ")
    for content in (b"", b"PK", torch.zeros(100).numpy().tobytes()):
        path.write_bytes(content)
        assert refusal(path).startswith(f"model.weights: {path} can't be read as a safetensors file: ")
    assert refusal(tmp_path).startswith(f"model.weights: {tmp_path} can't be read as a safetensors file: ")


def test_local_patterns_hold_for_a_file_alone(tmp_path: Path) -> None:
    path = written(tmp_path, ARRAYS, {"buffers": '["c.running_mean"]'})
    origin = open_origin(config(name="", weights=path, local="a.*,c.*"), 0)
    assert origin.layout.local == {"a.bias", "c.running_mean"}
    assert "'x*' matches no tensor" in refusal(path, local="x*")
