from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.measured_code import PACKAGES, changed_since, measured_now
from benchmarks.overview import overview
from benchmarks.result import Result, Target, document

MACHINE = {"cores": 2, "cpu": "a", "system": "b", "python": "3", "torch": "2", "numpy": "2"}


def write(folder: Path, entry: str, *targets: Target) -> None:
    first = targets[0] if targets else None
    result = Result(entry, "about", first, (), {}, further=targets[1:])
    (folder / f"{entry}.json").write_text(document(result, MACHINE, quick=False), encoding="utf-8")


def test_each_promise_is_a_row_with_its_verdict(tmp_path: Path) -> None:
    write(tmp_path, "step", Target("time", "s", 1.25, 1.0), Target("ratio", "", 0.5, 1.0))
    write(tmp_path, "soak")
    (tmp_path / "step.md").touch()
    page = overview(tmp_path, ("step", "absent", "soak"))
    assert [line for line in page.splitlines() if line.startswith("| [")] == [
        "| [step](step.md) | time | 1.25 s | 1 s | **missed** |",
        "| [step](step.md) | ratio | 0.5 | 1 | met |",
        "| [soak](soak.json) | nothing | | | |",
    ]
    assert "Measured on 2 cores (a), b, python 3, torch 2, numpy 2: step, soak." in page


def test_a_result_that_is_older_than_the_code_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "now")
    write(tmp_path, "before")
    path = tmp_path / "before.json"
    path.write_text(
        re.sub(r'"leader": "[0-9a-f]{16}"', '"leader": "0"', path.read_text("utf-8")), encoding="utf-8"
    )
    write(tmp_path, "long_before")
    (tmp_path / "long_before.json").write_text(
        json.dumps({"target": None, "machine": MACHINE}), encoding="utf-8"
    )
    page = overview(tmp_path, ("now", "before", "long_before"))
    assert [line for line in page.splitlines() if line.startswith("| [")] == [
        "| [now](now.json) | nothing | | | |",
        "| [before](before.json) † | nothing | | | |",
        "| [long_before](long_before.json) † | nothing | | | |",
    ]
    assert "† older than the code" in page


def test_packages_that_have_changed_are_named(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("A = 1\n", encoding="utf-8")
    measured = measured_now(tmp_path)
    assert changed_since(measured, tmp_path) == []
    (tmp_path / "utils" / "a.py").rename(tmp_path / "utils" / "b.py")
    (tmp_path / "protos" / "c.proto").touch()
    assert changed_since(measured, tmp_path) == ["protos", "utils"]
    assert changed_since(None, tmp_path) == list(PACKAGES)
