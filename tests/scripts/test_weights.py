from __future__ import annotations

from pathlib import Path

import pytest

from leader.config import RunConfig
from leader.global_model.initial import open_origin
from model.flat import FlatModel
from model.image_classification import ImageClassification
from scripts.weights import main

TASK = "model.image_classification:ImageClassification"


def test_a_leader_reads_the_tasks_weights_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start.safetensors"
    assert main(["--task", TASK, "--out", str(out), "--seed", "5"]) == 0
    model = FlatModel(ImageClassification().build_model(5))
    said = f"{out}: {model.layout.parameter_count:,} parameters, {len(model.layout.entries)} tensors\n"
    assert capsys.readouterr().out == said
    config = RunConfig.model_validate(
        {"data": {"source": "none", "holder": "learner"}, "model": {"name": "", "weights": out}}
    )
    origin = open_origin(config, 0)
    vector = model.snapshot().numpy()
    names = {kind: {e.name for e in getattr(model.layout, kind)} for kind in ("parameters", "buffers")}
    for kind, expected in names.items():
        assert {entry.name for entry in getattr(origin.layout, kind)} == expected
    theirs = {entry.name: entry for entry in origin.layout.entries}
    for entry in model.layout.entries:
        place = theirs[entry.name]
        assert place.shape == entry.shape
        read = origin.vector[place.start : place.start + place.size]
        assert read.tobytes() == vector[entry.start : entry.start + entry.size].tobytes(), entry.name


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--task nothing:Here --out OUT", "--task nothing:Here: no module 'nothing'"),
        (f"--task {TASK} --out OUT/none/x", "--out: can't write OUT/none/x: No such file or directory"),
        (f"--task {TASK} --out OUT", "--out: can't write OUT: Is a directory"),
        (f"--task {TASK}", "--out"),
    ],
)
def test_what_can_not_be_done_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: str, message: str
) -> None:
    assert main(argv.replace("OUT", str(tmp_path)).split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message.replace("OUT", str(tmp_path)) in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
