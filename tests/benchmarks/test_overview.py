from __future__ import annotations

from pathlib import Path

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
