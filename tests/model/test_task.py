from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from model.image_classification import ImageClassification
from model.task import FitsItself, each_tensor, load_task, to_device
from utils.errors import ConfigError


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("tasks_"):
            del sys.modules[name]


def refusal(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_task(name, "--task")
    return str(caught.value)


def test_a_task_is_made_without_arguments() -> None:
    task = load_task("model.image_classification:ImageClassification", "--task")
    assert task == ImageClassification()
    assert not isinstance(task, FitsItself)


@pytest.mark.parametrize(
    "name", ["", "digits", ":Digits", "digits:", "a..b:C", ".a:B", "a b:C", "a:b.C", "a:B:C"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert (
        refusal(name) == f"--task is {name!r}; it must be package.module:Name, such as my_tasks.digits:Digits"
    )


def test_a_module_that_is_not_there_is_refused() -> None:
    where = "start in the folder that it lies in, or install it"
    assert refusal("tasks_none:A") == f"--task tasks_none:A: no module 'tasks_none'; {where}"
    assert refusal("model.none.x:A") == f"--task model.none.x:A: no module 'model.none'; {where}"


def test_what_is_wrong_in_a_module_is_told_in_one_line(modules: Path) -> None:
    (modules / "tasks_needs.py").write_text("import tasks_absent")
    (modules / "tasks_breaks.py").write_text("1 / 0")
    (modules / "tasks_syntax.py").write_text("def")
    (modules / "tasks_poor.py").write_text(
        "class Needs:\n    def __init__(self, x): pass\n"
        "class Lacks:\n    def build_model(self, seed): pass\n    def loss(self, model, batch): pass\n"
        "number = 5\n"
    )
    assert refusal("tasks_needs:A").startswith("--task tasks_needs:A: no module 'tasks_absent'; ")
    why = "importing tasks_breaks failed: ZeroDivisionError: division by zero"
    assert refusal("tasks_breaks:A") == f"--task tasks_breaks:A: {why}"
    assert "importing tasks_syntax failed: SyntaxError: " in refusal("tasks_syntax:A")
    assert refusal("tasks_poor:Absent") == "--task tasks_poor:Absent: tasks_poor has no Absent"
    assert "Needs() failed, it must work without arguments: TypeError: " in refusal("tasks_poor:Needs")
    assert "number() failed, it must work without arguments: TypeError: " in refusal("tasks_poor:number")
    lacks = "it lacks open_data, make_batch, metrics; see model/task.py for what a task is"
    assert refusal("tasks_poor:Lacks") == f"--task tasks_poor:Lacks: {lacks}"
    assert not any("\n" in refusal(f"tasks_{name}:A") for name in ("needs", "breaks", "syntax", "poor"))


class Pair(NamedTuple):
    """A batch with names."""

    x: Tensor
    y: list[Tensor]


def test_every_tensor_in_a_batch_moves() -> None:
    meta = torch.device("meta")
    one = torch.ones(2)
    moved = to_device({"a": one, "b": (one, [one, 3]), "c": "text", "d": Pair(one, [one])}, meta)
    assert moved["a"].device == moved["b"][0].device == moved["b"][1][0].device == meta
    assert isinstance(moved["b"], tuple)
    assert (moved["b"][1][1], moved["c"]) == (3, "text")
    assert isinstance(moved["d"], Pair)
    assert moved["d"].x.device == moved["d"].y[0].device == meta
    assert to_device(one, torch.device("cpu")) is one


def test_batches_are_stacked_place_by_place() -> None:
    batches = [
        {"a": torch.tensor([i]), "b": Pair(torch.tensor(i), [torch.tensor(-i)]), "c": 7} for i in (1, 2)
    ]
    stack = each_tensor(lambda *tensors: torch.stack(tensors), *batches)
    assert stack["a"].tolist() == [[1], [2]]
    assert stack["b"].x.tolist() == [1, 2]
    assert stack["b"].y[0].tolist() == [-1, -2]
    assert stack["c"] == 7
