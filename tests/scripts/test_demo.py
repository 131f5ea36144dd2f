from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from scripts.demo import RECIPE, leader, learner, parse, result


def settings_of(command: tuple[str, ...]) -> list[str]:
    return [value for flag, value in pairwise(command) if flag == "--set"]


def test_leader_gets_recipe_then_run_then_own_settings() -> None:
    options = parse(["--data", "sets", "--learners", "3", "--rounds", "4", "--set", "seed=7"])
    program = leader(options, "127.0.0.1:1234", "cifar10", Path("out"))
    assert program.command[1:7] == ("-m", "leader", "--listen", "127.0.0.1:1234", "--learners", "3")
    assert settings_of(program.command) == [
        *RECIPE,
        "rounds=4",
        "data.source=cifar10",
        "data.dir=sets",
        "run_dir=out",
        "seed=7",
    ]
    assert program.log is None


def test_learners_differ_in_name_and_log_only() -> None:
    options = parse(["--threads", "2"])
    first, second = (learner(options, "127.0.0.1:1234", Path("out"), number) for number in (1, 2))
    assert first.command[1:] == (
        *("-m", "learner", "--leader", "127.0.0.1:1234"),
        *("--threads", "2", "--name", "demo-1"),
    )
    assert second.command == (*first.command[:-1], "demo-2")
    assert (first.log, second.log) == (Path("out/learner-1.log"), Path("out/learner-2.log"))


def test_result_tells_accuracy_files_and_both_commands(tmp_path: Path) -> None:
    summary = {"dataset": "CIFAR-10", "test_accuracy": 0.91237, "seconds": 182.6}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = result(tmp_path, "box", ".venv/bin/python")
    assert "CIFAR-10: test accuracy 91.24% in 183 s of training" in text
    assert str(tmp_path / "curves.png") in text
    assert str(tmp_path / "model.safetensors") in text
    assert ".venv/bin/python -m leader --listen 0.0.0.0:50051 --learners 2" in text
    assert ".venv/bin/python -m learner --leader box:50051" in text
