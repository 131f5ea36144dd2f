"""Every Python block and every shell line of README and docs runs, or is marked with the reason why not."""

from __future__ import annotations
import __future__

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.simulate.__main__ import run as simulate
from tests.docs import shell
from tests.docs.blocks import DOCUMENTS, MARKER, ROOT, SHELL, Block, blocks_of, spans_of
from utils.datasets.synthetic import synthetic_shapes
from utils.errors import FlockstepError

pytestmark = pytest.mark.usefixtures("root_logger")  # a run logs to it

WITH_CODE = [document for document in DOCUMENTS if blocks_of(document)]
NOT_CODE = {"text", "yaml"}


_synthetic_shapes = functools.cache(synthetic_shapes)  # drawing them takes longer than a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, for what a document does with `runs/RUN`."""
    folder = tmp_path_factory.mktemp("trained") / "RUN"
    settings = ("data.train_examples=32", "data.test_examples=20", "train.batch_size=16", f"run_dir={folder}")
    outcome = simulate(["--data", "synthetic", "--rounds", "1", *(w for s in settings for w in ("--set", s))])
    assert outcome is not None
    return folder


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """A working directory with what documents take for granted, put at the front of the path."""
    shutil.copytree(trained, tmp_path / "runs" / "RUN")
    (tmp_path / "run.yaml").write_text("learners: 3\nrounds: 2\ndata: {source: synthetic}\n")
    _flowers(tmp_path / "flowers", "parts/{}")
    _flowers(tmp_path / "data" / "flowers", "part-{}")
    _flowers(tmp_path / "data" / "other", "../flowers-parts/{}")
    for tree in ("photos/train", "photos/test"):
        _images(tmp_path / tree)
    monkeypatch.setattr("utils.datasets.open.synthetic_shapes", _synthetic_shapes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    return tmp_path


def _flowers(folder: Path, parts: str) -> None:
    """Rows of four measurements and a class: test.csv, and train.csv for each of three learners."""
    rows = np.random.default_rng(0).uniform(size=(60, 5)).astype(np.float32)
    rows[:, 4] = np.arange(60) % 3
    for path, chosen in [(".", rows[:12]), *((parts.format(n), rows[12 + 16 * n :][:16]) for n in range(3))]:
        (folder / path).mkdir(parents=True, exist_ok=True)
        name = "test.csv" if path == "." else "train.csv"
        np.savetxt(folder / path / name, chosen, delimiter=",")


def _images(folder: Path) -> None:
    """Images of two classes, a folder each."""
    for number in range(12):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(path)


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_shows_runs(document: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document.name == "data.md":  # its photos are in natural groups
        shutil.rmtree("photos")
        for clinic in ("clinic-1", "clinic-2"):
            _images(Path("photos", clinic))
    names: dict[str, Any] = {}
    for block in blocks_of(document):
        assert block.language, f"{block}: name the language of the fence"
        try:
            if block.language == SHELL:
                _commands(block, monkeypatch)
            elif block.language == "python":
                _python(block, names)
            else:
                assert block.language in NOT_CODE, f"{block}: nobody knows how to run {block.language}"
        except FlockstepError as error:
            raise AssertionError(f"{block}: {error}") from error


def _commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in block.commands:
        if block.why_not:
            shell.check(line)
        else:
            shell.run(line, monkeypatch)


def _python(block: Block, names: dict[str, Any]) -> None:
    """Run a block after those before it; one that begins with a file's name is that file too, with its tests."""
    if block.why_not:
        return
    first = block.text.partition("\n")[0].removeprefix("# ")
    if first.endswith(".py"):
        Path(first).write_text(block.text, encoding="utf-8")
    lazily = __future__.annotations.compiler_flag
    exec(compile("\n" * (block.line - 1) + block.text, block.document, "exec", lazily, True), names)
    for name in [name for name in names if name.startswith("test_")]:
        names.pop(name)()
    if first.startswith("test_"):
        for name in [name for name in names if name.startswith("test_")]:
            names[name]()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_says_to_make_can_be_made(document: Path) -> None:
    for span in spans_of(document):
        if span.startswith("make "):
            shell.check(span)


def test_every_marker_stands_before_a_block() -> None:
    for document in DOCUMENTS:
        marked = [block for block in blocks_of(document) if block.why_not]
        lines = document.read_text(encoding="utf-8").splitlines()
        assert len(marked) == sum(MARKER.fullmatch(line) is not None for line in lines), document


def test_own_model_on_own_data_takes_fifteen_lines_and_the_readme_160() -> None:
    (own,) = [block for block in blocks_of(ROOT / "README.md") if block.language == "python"]
    lines = [line for line in own.text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) == 15
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
