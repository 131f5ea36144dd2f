"""The wheel: what it holds, and a run from it where nothing else of this project is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from utils.version import PROTOCOL, RELEASE

ROOT = Path(__file__).parents[1]
PRODUCT = {"leader", "learner", "model", "protos", "scripts", "utils"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy of what it is made of."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (
        *PRODUCT,
        "tests",
        "benchmarks",
        "examples",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        _copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    (made,) = out.iterdir()
    return made


def _copy(path: Path, to: Path) -> None:
    """A file, or a folder without what was compiled."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            target = to / file.relative_to(path) if path.is_dir() else to
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, and of this one only what the wheel needs."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home, with_pip=False)
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files stay unread
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    return home


def run(home: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FLOCKSTEP_"))}
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [str(home / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env=kept | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_it_holds_the_product_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PRODUCT
    sources = {path.relative_to(ROOT).as_posix() for top in PRODUCT for path in (ROOT / top).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {
        "protos/leader.proto",
        "protos/leader_pb2.pyi",
        "leader/py.typed",
        "leader/trust/gateway.yaml",
        "scripts/completion.bash",
    } <= set(names)
    assert not [name for name in names if "test" in name or "fuzz" in name or "chaos" in name]


def test_leader_and_learners_run_from_it_where_folders_have_their_names(home: Path, tmp_path: Path) -> None:
    for name in ("leader", "learner", "model", "protos", "utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('theirs was imported')")
    small = (
        "data.train_examples=64",
        "data.test_examples=20",
        "train.batch_size=16",
        "model.name=resnet9-w8",
    )
    settings = [word for setting in small for word in ("--set", setting)]
    flags = ("--synthetic", "--rounds", "1", "--run-dir", "run", *settings)
    done = run(home, tmp_path, "flockstep", "demo", *flags)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rounds"], summary["learners"]) == (1, 2)


@pytest.mark.parametrize("command", [("flockstep",), ("python", "-m", "leader"), ("python", "-m", "learner")])
def test_it_says_its_release(command: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    done = run(home, tmp_path, *command, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"flockstep {RELEASE} (protocol {PROTOCOL})\n"
