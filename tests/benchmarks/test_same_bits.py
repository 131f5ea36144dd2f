from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fleet import set_flags
from benchmarks.same_bits import ALIKE, BASE, CHECKOUT, RUNS, Run, main, wrong
from leader.cli import parse

ONE, OTHER = ({"model_sha256": digest, "loss": 1.0} for digest in "ab")
FAILED = {"failed": "learner-1 failed with exit code 1"}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_leader_takes_the_settings_of_each_run(run: Run) -> None:
    settings = {**BASE, "learners": run.learners, **run.settings}
    if run.own_data:
        settings["data.holder"] = "learner"
    parse(set_flags(settings), {})


def test_a_run_that_ended_otherwise_or_failed_or_is_missing_is_named() -> None:
    ours = {"same": ONE, "other": ONE, "new": ONE}
    assert wrong(ours, {"same": ONE, "other": OTHER, "old": ONE}) == ["other", "new"]
    assert wrong({"loss": ONE}, {"loss": {**ONE, "loss": 2.0}}) == ["loss"]
    assert wrong({"failed": FAILED, "same": ONE}, {"failed": FAILED, "same": ONE}) == ["failed"]
    assert wrong({"failed": FAILED, "same": ONE}, None) == ["failed"]


def test_runs_that_promise_one_model_are_held_to_it() -> None:
    assert {name for pair in ALIKE for name in pair} <= set(RUNS)
    (first, second), *_ = ALIKE
    assert wrong({first: ONE, second: {**ONE, "loss": 2.0}}, None) == []
    assert wrong({first: ONE, second: OTHER}, None) == [second]
    assert wrong({second: OTHER}, None) == []
    assert wrong({first: FAILED, second: OTHER}, None) == [first]


def test_a_checkout_ends_as_itself_and_not_as_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, record = "delta, simulated", tmp_path / "runs.json"
    assert main(["--against", str(CHECKOUT), "--out", str(record), name]) == 0
    written = json.loads(record.read_text())
    assert len(written["runs"][name]["model_sha256"]) == 64
    written["runs"][name]["model_sha256"] = "0" * 64
    record.write_text(json.dumps(written))
    assert main(["--against", str(record), name]) == 1
    assert f"wrong: {name}" in capsys.readouterr().out
