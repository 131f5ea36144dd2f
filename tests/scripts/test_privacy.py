from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from leader.config.dp_rules import releases_needed
from scripts.privacy import main
from utils.dp.gaussian import epsilon_of


def told(capsys: pytest.CaptureFixture[str], argv: str) -> list[str]:
    assert main(argv.split()) == 0
    return capsys.readouterr().out.splitlines()


def test_a_plan_says_the_least_noise_and_what_another_comes_to(capsys: pytest.CaptureFixture[str]) -> None:
    least = told(capsys, "plan --learners 1000 --cohort 100 --rounds 200 --parameters 103954")
    assert least == [
        f"rounds that a learner may have to pay: {releases_needed(200, 1000, 100)} of 200",
        "least noise multiplier that pays them: 2.8786 (dp.noise_multiplier=0 takes it)",
        "epsilon with noise multiplier 2.8786: 8 of 8 at delta 1e-05, within the budget",
        "noise over clipped updates, z sqrt(d) / n: 9.3 (far above 1 little is learnt)",
    ]
    [_, _, spent] = told(capsys, "plan --learners 50 --rounds 1 --noise 1")
    assert f"{epsilon_of(1.0, 1e-5):.3g} of 8 at delta 1e-05, within the budget" in spent
    assert "refused at the start" in told(capsys, "plan --rounds 20 --noise 1")[2]


def test_a_delta_that_lets_one_learner_be_told_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "plan --learners 1000 --delta 0.001")
    assert lines[-1] == "delta is no less than 1/learners: lower it, below 0.001 by far"


def run(folder: Path, epsilons: list[float | None], metric: str = "test_accuracy") -> Path:
    folder.mkdir()
    records = [
        {"round": number, metric: 0.1 * number, **({"epsilon": epsilon} if epsilon else {})}
        for number, epsilon in enumerate(epsilons, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_a_plot_draws_private_runs_and_one_without_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, plain = run(tmp_path / "private", [1.0, 2.0, 3.0]), run(tmp_path / "plain", [None, None])
    out = tmp_path / "drawn.png"
    assert told(capsys, f"plot {private} {plain} --out {out}") == [
        f"{out}: test accuracy against epsilon of 2 runs"
    ]
    with Image.open(io.BytesIO(out.read_bytes())) as image:
        assert image.size == (840, 552)


def test_what_can_not_be_done_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = run(tmp_path / "loss", [1.0], "test_loss")
    accuracy = run(tmp_path / "accuracy", [1.0])
    untested = run(tmp_path / "untested", [1.0], "seconds")
    for argv, message in (
        ("", "give a verb, one of plan, plot"),
        ("draw", "give a verb, one of plan, plot"),
        ("plot", "name at least one run folder"),
        (f"plot {tmp_path}/none", "give the folder of a run"),
        (f"plot {untested}", "was never tested"),
        (f"plot {accuracy} {loss}", "loss was measured by another metric than accuracy"),
        (f"plot {accuracy} --out {tmp_path}", "--out: can't write"),
        ("plan --epsilon 0", "--epsilon"),
    ):
        assert main(argv.split()) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
