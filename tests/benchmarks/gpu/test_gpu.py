from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import accuracy, agreement, clients, step
from benchmarks.gpu.bare.packages import yaml as bare_yaml
from benchmarks.gpu.job import Job
from benchmarks.result import SkippedError
from utils.settings import scalars

ROOT = Path(__file__).parents[3]
LOOK = Job("cpu", quick=True, data=None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_line_says_so_and_how_to_run_it_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "finds no CUDA device here" in line
    assert "make gpu QUICK=1 ARGS='--device cpu'" in line
    assert not (tmp_path / "out").exists()


def test_all_budgets_and_the_end_of_one_are_below_eight_minutes() -> None:
    assert sum(gpu.BUDGETS.values()) + gpu._END_S < 480


def test_the_marked_tests_are_found() -> None:
    found = {Path(path).relative_to(ROOT / "tests").as_posix() for path in gpu._marked()}
    assert {"model/test_device.py", "learner/training/test_gradient_pieces.py"} <= found


def test_a_figure_whose_time_is_up_is_told_and_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.BUDGETS, "clients", 0.1)
    options = ["--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert gpu.main([*options, "clients", "agreement", "images"]) == 1
    report = json.loads((tmp_path / gpu.FILE).read_text(encoding="utf-8"))
    assert report["failed"]["clients"].startswith("took longer than 0 s; the end of ")
    same, rates = report["entries"]
    assert (same["entry"], same["target"]["value"], same["target"]["met"]) == ("agreement", 0.0, True)
    assert same["machine"]["device"].startswith("cpu")
    learner, bare = (rates["figures"][name]["median"] for name in ("learner", "bare loop"))
    assert rates["ratios"]["learner to bare loop"] == pytest.approx(learner / bare, rel=2e-3)


def test_both_models_are_simulated() -> None:
    result = clients.measure(LOOK)
    assert [figure.spread.count for figure in result.figures] == [3] * 6
    ways = ("device", "device, as one batch")
    assert set(result.ratios) == {
        f"{name}: {way} to CPU" for name in ("MLP 32-64-10", "resnet9-w8") for way in ways
    }


@pytest.mark.slow
def test_a_step_is_measured_beside_ddp() -> None:
    result = step.measure(LOOK)
    assert {figure.name: figure.spread.count for figure in result.figures} == {
        "Flockstep": 2,
        "DDP (gloo)": 2,
        "compute alone (DDP, no_sync)": 2,
    }


@pytest.mark.slow
def test_a_run_is_timed_to_its_evaluation() -> None:
    seconds, epochs, percent = (figure.spread.median for figure in accuracy.measure(LOOK).figures)
    assert 0 < seconds < 60
    assert epochs in (1, 2)
    assert 0 <= percent <= 100


def test_accuracy_is_left_out_without_cifar10(tmp_path: Path) -> None:
    with pytest.raises(SkippedError, match=r"no CIFAR-10 in .*: name its folder, make gpu DATA=DIR"):
        accuracy.measure(Job("cpu", quick=False, data=tmp_path))


def test_other_weights_are_told_from_the_same() -> None:
    weights = {"a": np.array([1, -8], np.float32), "b": np.array([0.5], np.float32)}
    others = {"a": np.array([1, -8], np.float32), "b": np.array([1.5], np.float32)}
    assert agreement.difference(weights, weights) == 0
    assert agreement.difference(weights, others) == 0.125


@pytest.mark.parametrize(
    "text",
    ["128", "-1", "0.4", "1.5e-4", "true", "false", "null", "", "resnet9-w64", "127.0.0.1:50051", "a b"],
)
def test_settings_read_the_same_without_pyyaml(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = scalars.from_yaml(text)
    monkeypatch.setattr(scalars, "yaml", bare_yaml)
    assert scalars.from_yaml(text) == value


BARE = """
import sys
from importlib.machinery import PathFinder
sys.path[:0] = [{root!r}, {bare!r}]
import sitecustomize
ABSENT = sitecustomize.UNUSED | {{"yaml", "psutil", "grpc_health", "grpc_reflection", "isal"}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            found = PathFinder.find_spec(name, [{bare!r} + "/packages"] if path is None else path)
            return found or sitecustomize.Finder().find_spec(name, path)
sys.meta_path.insert(0, Absent())
for name in ABSENT:
    sys.modules.pop(name, None)
import leader.wiring, leader.__main__, learner.app, scripts.simulate.simulation
from utils.secagg.keys import public
public(bytes(32))
"""


def test_programs_load_without_packages_that_a_plain_run_never_uses_and_say_so_if_one_is() -> None:
    script = BARE.format(root=str(ROOT), bare=str(ROOT / "benchmarks" / "gpu" / "bare"))
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: cryptography.hazmat.primitives.asymmetric.x25519.X25519PrivateKey.from_private_bytes "
        "is used, but its package is not installed: pip install it"
    )
