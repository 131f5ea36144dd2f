"""A folder of the working directory with the name of one of our packages: noticed by real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import ConfigError

ROOT = Path(__file__).parents[2]


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`python ARGV` in `folder`."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("module", ["leader", "learner", "scripts.simulate", "scripts.partition"])
@pytest.mark.parametrize("name", ["utils", "model", "protos"])
def test_a_package_that_hides_ours_is_named_in_one_line(module: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('theirs was imported')")
    done = run(tmp_path, "-m", module, "--version")
    assert done.returncode == ConfigError.exit_code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    theirs = tmp_path / name / "__init__.py"
    assert done.stderr.startswith(f"error: {tmp_path / name} hides ") or str(theirs) in done.stderr
    assert f"Flockstep's own package {name!r}" in done.stderr
    for advice in ("start in another folder", "rename it", "the command flockstep"):
        assert advice in done.stderr


def test_a_module_hides_ours_just_as_well(tmp_path: Path) -> None:
    (tmp_path / "utils.py").touch()
    done = run(tmp_path, "-m", "learner", "--version")
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.startswith(f"error: {tmp_path / 'utils.py'} hides ")


def test_a_simulation_needs_the_leader_and_the_learner_too(tmp_path: Path) -> None:
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "__init__.py").touch()
    assert "package 'learner'" in run(tmp_path, "-m", "scripts.simulate", "--version").stderr
    assert run(tmp_path, "-m", "leader", "--version").returncode == 0  # it does without


def test_a_folder_that_hides_nothing_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()  # such as for weights: Python prefers the package, wherever it lies
    (tmp_path / "data").mkdir()
    for module in ("leader", "learner"):
        done = run(tmp_path, "-m", module, "--version")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("word", ["leader", "learner", "demo"])
def test_the_command_flockstep_is_not_affected(word: str, tmp_path: Path) -> None:
    for name in ("leader", "learner", "model", "protos", "utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('theirs was imported')")
    script = tmp_path / "bin" / "flockstep"  # as an installed command is: its own folder is first on the path
    script.parent.mkdir()
    script.write_text("import sys; from scripts.command import main; sys.exit(main())")
    done = run(tmp_path, str(script), word, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout
