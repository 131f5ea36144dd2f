from __future__ import annotations

import json
from pathlib import Path

import pytest

from leader.services.registry.folder import FolderRegistry
from scripts.registry import main
from tests.registered import publish


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    assert main(argv) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderRegistry:
    """Two versions in the folder where the program looks if it is told no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    registry = FolderRegistry(Path("registry"))
    for score in (0.5, 0.25):
        publish(registry, tmp_path, score, dataset="CIFAR-10", round=7)
    return registry


def test_the_list_has_a_row_a_version(registry: FolderRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    head, first, second = told(capsys, "list")
    assert head.split() == [
        "model",
        "alias",
        "run",
        "round",
        "metric",
        "score",
        "dataset",
        "epsilon",
        "parent",
    ]
    assert first.split() == [
        "models:/digits/1",
        "champion",
        "run-0.5",
        "7",
        "test_accuracy",
        "0.5000",
        "CIFAR-10",
    ]
    assert second.split() == ["models:/digits/2", "run-0.25", "7", "test_accuracy", "0.2500", "CIFAR-10"]
    assert told(capsys, "list", "other") == [
        "no model is registered in registry: runs do that with services.registry.model=NAME"
    ]


def test_json_has_all_that_the_cards_say(
    registry: FolderRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads("".join(told(capsys, "list", "digits", "--json")))
    assert [(row["name"], row["number"], row["aliases"], row["score"]) for row in rows] == [
        ("digits", 1, ["champion"], 0.5),
        ("digits", 2, [], 0.25),
    ]
    assert rows[0]["sha256"] == registry.versions()[0].card.sha256


def test_a_model_is_pulled_with_its_card(
    registry: FolderRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = registry.versions()[1].card.sha256
    assert told(capsys, "pull", "models:/digits/2", "--out", "here") == [
        f"here/model.safetensors: models:/digits/2, SHA-256 of its weights {sha256}"
    ]
    assert Path("here/model.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    assert json.loads(Path("here/card.json").read_text())["score"] == 0.25


def test_an_alias_is_moved(registry: FolderRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "promote", "models:/digits/2") == ["models:/digits@champion is models:/digits/2 now"]
    [line] = told(capsys, "promote", "models:/digits@champion", "--alias", "deployed", "--json")
    assert json.loads(line)["aliases"] == ["champion", "deployed"]


def test_what_can_not_be_done_is_told_in_one_line(
    registry: FolderRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    for argv, code, message in (
        ("", 2, "give a verb, one of list, pull, promote"),
        ("push", 2, "give a verb, one of list, pull, promote"),
        ("pull", 2, "the following arguments are required: MODEL"),
        ("pull digits", 2, "'digits' names no model of a registry: models:/NAME/3 is a version"),
        ("pull models:/../x/1", 2, "names no model of a registry"),
        (
            "pull models:/digits/3",
            2,
            "models:/digits/3 is not in the registry registry: of digits it has champion",
        ),
        ("pull models:/digits/1 --out file", 2, "file: File exists"),
        ("promote models:/digits/1 --alias 3", 2, "'3' is no name of an alias"),
        ("promote models:/digits/1 --alias latest", 2, "'latest' is no name of an alias"),
        ("list --registry ftp://host", 2, "ftp://host: a registry is a folder, or an MLflow server"),
        ("list ../registry", 2, "'../registry' is no name of a model"),
    ):
        assert main(argv.split()) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
