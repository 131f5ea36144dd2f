from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.simulations.mlp_task import PARAMETERS, Vectors
from leader.config import RunConfig
from leader.config.rules.dp import releases_needed
from protos import leader_pb2
from scripts.privacy import main
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, Options, Outcome, simulate
from utils.dp import sampled_gaussian
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


def test_a_plan_of_shares_counts_the_smallest_sum_and_says_what_a_full_one_spends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the leader charges: z sqrt((in the sum - colluding) / (fewest - colluding))."""
    sizes = "--learners 100 --rounds 20 --quorum 0.8 --colluding 0.1 --parameters 10000"
    charged = 2.68431 * math.sqrt(90 / 70)
    assert told(capsys, f"plan --mode distributed {sizes}") == [
        "rounds that a learner may have to pay: 20 of 20",
        "smallest sum that a round may have: 80 of 100 updates, of which the noise of 70 counts",
        "least noise multiplier that pays them: 2.68431 (dp.noise_multiplier=0 takes it)",
        "epsilon with noise multiplier 2.68431: 8 of 8 at delta 1e-05, within the budget",
        f"if all are in each sum: noise of {2.68431 * math.sqrt(100 / 70):.4g}, of which {charged:.4g} counts: "
        f"epsilon {epsilon_of(math.sqrt(20) / charged, 1e-5):.3g}",
        "noise over clipped updates, z sqrt(d) / n: 3.2 (far above 1 little is learnt)",
    ]
    two_thirds = told(capsys, "plan --mode distributed --learners 100 --quorum 0.2")
    assert two_thirds[1].startswith("smallest sum that a round may have: 67 of 100 updates")


def run_in_groups(
    folder: Path,
    rounds: int,
    *,
    learners: int = 8,
    size: int = 8,
    colluding: float = 0.0,
    spread: float = 0.0,
) -> Outcome:
    """A simulated run with noise in shares, in groups of four."""
    settings = {
        "rounds": rounds,
        "learners": learners,
        "run_dir": folder,
        "model": {"task": "benchmarks.simulations.mlp_task:Mlp"},
        "data": {"source": "none", "holder": "learner"},
        "train": {"local_steps": 1, "batch_size": 16, "dtype": "float32"},
        "aggregate": {"weighting": "uniform"},
        "secagg": {"mode": "masked"},
        "buffer": {"size": 8, "group": 4},
        "dp": {"mode": "distributed", "colluding": colluding},
    }
    said = [leader_pb2.OwnData(examples=32, fingerprint=f"client-{number}") for number in range(learners)]
    own = [Brought(Vectors.of_client(number), each) for number, each in enumerate(said)]
    outcome = simulate(RunConfig.model_validate(settings), Options(speed_spread=spread), Hooks(own=own))
    assert outcome.reason == ""
    return outcome


@pytest.mark.parametrize(("rounds", "colluding"), [(3, 0.0), (5, 0.25)])
def test_a_plan_of_groups_is_what_a_simulation_of_them_charges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rounds: int, colluding: float
) -> None:
    sizes = f"--learners 8 --buffer 8 --group 4 --rounds {rounds} --colluding {colluding}"
    lines = told(capsys, f"plan --mode distributed {sizes} --parameters {PARAMETERS}")
    counted = 4 - 4 * colluding
    assert lines[1].endswith(f": 3 of 4 updates, of which the noise of {counted - 1:.0f} counts")
    assert lines[3].endswith(": 8 of 8 at delta 1e-05, within the budget")
    alike = run_in_groups(tmp_path / "alike", rounds, colluding=colluding)
    spent = alike.summary["privacy"]["spent_max"]
    assert 0 < spent < 8
    assert lines[4].startswith(
        f"if all are in each sum and nobody is quicker: {rounds} sums of each, with noise "
    )
    assert lines[4].endswith(f": epsilon {spent:.3g}")
    spread = run_in_groups(tmp_path / "spread", rounds, colluding=colluding, spread=2.0)
    assert spent < spread.summary["privacy"]["spent_max"] <= 8


def test_quick_learners_sit_out_in_a_round_too_once_they_have_paid_what_the_plan_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four in a sum the noise of all counts: five such sums come to less than four of three, and six to more."""
    sizes = "--learners 20 --buffer 8 --group 4 --rounds 6"
    assert told(capsys, f"plan --mode distributed {sizes}")[0].endswith(" quick: 4 of 18 at most")
    run_in_groups(tmp_path / "run", 6, learners=20, spread=2.0)
    entries = list(map(json.loads, (tmp_path / "run" / "privacy.jsonl").read_text().splitlines()))
    sets = {entry["set"]: entry["parts"] for entry in entries if entry["kind"] == "parts"}
    paid = Counter(part for entry in entries if entry["kind"] == "release" for part in sets[entry["set"]])
    assert sum(paid.values()) == 2 * 4 * 6
    assert max(paid.values()) == 5


def test_a_plan_of_examples_is_what_learners_charge(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--mode examples --examples 5000 --batch-size 32 --rounds 20 --parameters 100000"
    rate, least = 32 / 5000, sampled_gaussian.least_noise(32 / 5000, 400, 8.0, 1e-5)
    spent = sampled_gaussian.epsilon_of(400 * sampled_gaussian.divergences_of(rate, 0.5), 1e-5)
    steps, noise, verdict, ratio = told(capsys, f"plan {sizes} --local-steps 20")
    assert (
        steps == "steps of a learner: 400, each with one example in 156.2 on average, if it is in every round"
    )
    assert noise == f"least noise multiplier that pays them: {least:g} (dp.noise_multiplier=0 takes it)"
    assert verdict.endswith("of 8 at delta 1e-05, within the budget")
    assert f"batch: {least * math.sqrt(100_000) / 32:.2g} (of one step)" in ratio
    less = told(capsys, f"plan {sizes} --local-steps 20 --noise 0.5")[2]
    assert f": {spent:.3g} of 8 at delta 1e-05, a learner stops before the last round" in less
    assert told(capsys, f"plan {sizes}")[0].startswith(f"steps of a learner: {20 * 157},")


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
        ("plan --mode local", "--mode: invalid choice: 'local'"),
        ("plan --mode examples", "say how many a learner has by --examples"),
        ("plan --mode distributed --learners 5 --colluding 0.9", "the noise of none counts"),
        ("plan --mode distributed --learners 20 --buffer 8 --group 9", "--group: buffer.group is 9, but"),
        ("plan --mode distributed --learners 20 --group 9", "only masked updates of an asynchronous run"),
        ("plan --mode distributed --learners 4 --buffer 8", "masks are agreed on by a whole group"),
        ("plan --mode distributed --learners 9 --buffer 8 --noise 0.5", "set dp.noise_multiplier="),
        ("plan --learners 9 --buffer 8", "--mode: dp.mode is central, but buffer.size is 8"),
        ("plan --mode examples --examples 9 --buffer 8", "leave out --buffer and --group"),
    ):
        assert main(argv.split()) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
