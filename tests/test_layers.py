"""Imports run one way, between the packages and between the rooms of each; files, classes and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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
#: The rooms of a program, from the ground up: each imports from those before it alone.
FLOORS = {
    "leader": [
        ["condition", "config", "events", "metric_names", "places", "rounds", "runtime"],
        ["data", "state", "trust"],
        ["aggregation", "optimizers"],
        ["distributed", "dp", "global_model", "learners", "secagg", "storage"],
        ["evaluation", "initial_state", "update_log"],
        ["training"],
        ["http", "reporting", "rpc", "services"],
        ["cli", "edge", "web", "wiring"],
        ["aggregator", "app"],
        ["__main__"],
    ],
    "learner": [
        ["memory", "noise_key", "options", "privacy_floor"],
        ["secagg", "training", "trust"],
        ["wire"],
        ["work"],
        ["control"],
        ["app"],
        ["__main__"],
    ],
}
MOST_MODULES = 12  # beside the rooms, at the top of a program
MOST_LINES = {ast.FunctionDef: 40, ast.AsyncFunctionDef: 40, ast.ClassDef: 300, ast.Module: 410}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(package: str) -> dict[str, list[str]]:
    """The imports of a package that are not of packages below it."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported(path)}
        if wrong := tops & OURS - BELOW[package] - {package}:
            found[str(path.relative_to(ROOT))] = sorted(wrong)
    return found


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    assert upward(package) == {}


@pytest.mark.parametrize("program", FLOORS)
def test_a_room_imports_only_from_floors_below_it(program: str) -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS[program]) for room in rooms}
    wrong = []
    for path in (ROOT / program).rglob("*.py"):
        room = path.relative_to(ROOT / program).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imported(path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top == program and other != room and floor_of[other] >= floor_of[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("program", FLOORS)
def test_few_modules_stand_beside_the_rooms_and_each_has_its_floor(program: str) -> None:
    modules = {path.stem for path in (ROOT / program).glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in (ROOT / program).glob("*/__init__.py")}
    assert len(modules) <= MOST_MODULES
    assert modules | rooms == {room for floor in FLOORS[program] for room in floor}


@pytest.mark.parametrize("package", [*BELOW, "scripts"])
def test_functions_classes_and_files_are_short_enough_to_be_read(package: str) -> None:
    long = []
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(text.splitlines()))
            if last - first + 1 > MOST_LINES.get(type(node), last):
                long.append(f"{path.relative_to(ROOT)}:{first}")
    assert long == []


@pytest.mark.parametrize(
    "machine", ["leader.rounds.round", "leader.rounds.buffer", "learner.work.order_book"]
)
def test_a_state_machine_loads_neither_grpc_nor_torch(machine: str) -> None:
    script = f"import sys, {machine}; print(sorted({{'grpc', 'torch', 'numpy', 'time'}} & set(sys.modules)))"
    command = [sys.executable, "-c", script]
    loaded = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "['time']"  # the interpreter itself loads time
