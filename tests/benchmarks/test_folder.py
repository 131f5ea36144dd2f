"""Where results go: to runs/, and over the committed ones only when asked."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import attacks, federated
from benchmarks.entries import Entry
from benchmarks.result import PUBLISHED, Result, Target

PARSERS = [bench.parse, federated.parse, attacks.parse]

ROOT = Path(__file__).parents[2]


def measured(quick: bool, data: Path) -> Result:
    return Result("tiny", "nothing", Target("time", "s", 1.0, 2.0), (), {})


def unasked(quick: bool, data: Path) -> Result:
    raise AssertionError("this takes long, and nobody has named it")


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr(bench, "ENTRIES", {"tiny": Entry(measured), "long": Entry(unasked, named=True)})
    return contents()


def contents() -> list[bytes]:
    return [path.read_bytes() for path in sorted(PUBLISHED.iterdir())]


def test_the_published_folder_is_the_committed_one() -> None:
    assert ROOT / "docs" / "benchmarks" == PUBLISHED
    assert (PUBLISHED / "transport.json").is_file()


@pytest.mark.parametrize("argv", [[], ["--quick"], ["tiny"]], ids=["all", "quick", "partial"])
def test_without_being_asked_only_runs_is_written(
    argv: list[str], committed: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench.main(argv) == 0
    assert sorted(path.name for path in (tmp_path / "runs" / "bench").iterdir()) == ["README.md", "tiny.json"]
    assert contents() == committed


def test_published_results_go_to_the_committed_folder(
    committed: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.parse(["--publish"]).out == PUBLISHED
    assert bench.main(["--out", str(tmp_path / "mine"), "tiny"]) == 0
    assert (tmp_path / "mine" / "tiny.json").is_file()
    assert contents() == committed


@pytest.mark.parametrize("parse", PARSERS)
def test_a_quick_look_is_never_published(
    parse: Callable[[Sequence[str]], Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--quick", "--publish"])
    assert "a quick look is not published" in capsys.readouterr().err


@pytest.mark.parametrize("parse", PARSERS)
def test_one_folder_is_given_not_two(parse: Callable[[Sequence[str]], Namespace]) -> None:
    assert parse(["--publish"]).out == PUBLISHED
    with pytest.raises(SystemExit):
        parse(["--publish", "--out", "mine"])
