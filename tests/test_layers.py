"""Imports run one way, and the round machine knows neither gRPC nor torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "leader": {"model", "utils", "protos"},
    "learner": {"model", "utils", "protos"},
    "model": {"utils"},
    "utils": {"protos"},
}
OURS = {"leader", "learner", "model", "utils", "protos", "scripts", "benchmarks", "examples", "tests"}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(upward)
        for path in (ROOT / package).rglob("*.py")
        if (upward := imported(path) & OURS - BELOW[package] - {package})
    }
    assert wrong == {}


@pytest.mark.parametrize("machine", ["leader.rounds", "leader.buffered"])
def test_a_round_machine_loads_neither_grpc_nor_torch(machine: str) -> None:
    script = f"import sys, {machine}; print(sorted({{'grpc', 'torch', 'numpy', 'time'}} & set(sys.modules)))"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "['time']"  # the interpreter itself loads time


def test_setup_lists_every_package() -> None:
    folders = {
        path.parent
        for name in BELOW | {"protos": set(), "scripts": set()}
        for path in (ROOT / name).rglob("__init__.py")
    }
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword) and node.arg == "packages"
    )
    assert set(listed) == found
