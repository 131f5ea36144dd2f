"""The ledger of a learner's own examples: charged once, before anything is made of them, within the budget."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.noise_key import NoiseKeys
from learner.training.example_privacy import ExamplePrivacy
from protos import leader_pb2
from utils.dp.sampled_gaussian import divergences_of, epsilon_of, least_noise
from utils.errors import PayloadError, PrivacyError

EXAMPLES = 240
START = np.zeros(4, np.float32)


def order(round_: int = 1, **plan: Any) -> leader_pb2.WorkOrder:
    asked = {"clip": 1.0, "epsilon": 8.0, "delta": 1e-5, "rounds": 10, **plan}
    return leader_pb2.WorkOrder(
        work_id=f"{round_}-0-a",
        round=round_,
        local_steps=5,
        batch_size=24,
        exchange="delta",
        examples=leader_pb2.ExamplePlan(**asked),
    )


def opened(folder: Path, budget: float = 0.0, data: str = "d4ta") -> ExamplePrivacy:
    return ExamplePrivacy(folder, NoiseKeys(folder), budget, data)


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "privacy.jsonl").read_text().splitlines()]


def test_the_least_noise_pays_all_rounds_of_the_run_and_no_more(tmp_path: Path) -> None:
    privacy = opened(tmp_path)
    for round_ in range(1, 11):
        noise, key = privacy.charge("run", order(round_), EXAMPLES, START)
        assert noise == least_noise(0.1, 50, 8.0, 1e-5)
        assert len(key) == 32
    spent = epsilon_of(sum(e["steps"] * divergences_of(e["rate"], e["z"]) for e in entries(tmp_path)), 1e-5)
    assert 7.9 < spent <= 8.0
    with pytest.raises(PrivacyError, match=r"round 11 would bring .* to epsilon 8\.\d+ of 8 in this run"):
        privacy.charge("run", order(11), EXAMPLES, START)
    assert len(entries(tmp_path)) == 10
    privacy.charge("another run", order(1), EXAMPLES, START)


def test_the_same_work_is_charged_once_and_has_the_same_noise_after_a_restart_too(tmp_path: Path) -> None:
    first = opened(tmp_path).charge("run", order(), EXAMPLES, START)
    restarted = opened(tmp_path)
    assert (
        restarted.charge("run", order(), EXAMPLES, START)
        == restarted.charge("run", order(), EXAMPLES, START)
        == first
    )
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("fixed", [0.0, 1.0])
def test_the_same_work_on_fewer_examples_is_other_work(tmp_path: Path, fixed: float) -> None:
    """As of a learner that was started again while its data was being copied: each example is in more of the steps."""
    privacy = opened(tmp_path)
    asked = order(noise_multiplier=fixed, epsilon=30.0)
    for examples in (EXAMPLES, EXAMPLES, 48, 48, EXAMPLES):
        privacy.charge("run", asked, examples, START)
    opened(tmp_path).charge("run", asked, 48, START)
    assert [entry["rate"] for entry in entries(tmp_path)] == [0.1, 0.5]


def test_the_same_work_on_as_many_other_examples_is_charged_and_has_other_batches_and_noise(
    tmp_path: Path,
) -> None:
    first = opened(tmp_path).charge("run", order(), EXAMPLES, START)
    other = opened(tmp_path, data="0ther").charge("run", order(), EXAMPLES, START)
    assert other[1] != first[1]
    assert opened(tmp_path).charge("run", order(), EXAMPLES, START) == first
    assert len(entries(tmp_path)) == 2


def test_work_of_an_earlier_round_whose_key_is_gone_is_charged_again(tmp_path: Path) -> None:
    """Its noise would be other noise: a leader that asks again and again could take the mean of it."""
    privacy = opened(tmp_path)
    first = privacy.charge("run", order(1), EXAMPLES, START)
    privacy.charge("run", order(2), EXAMPLES, START)
    again = privacy.charge("run", order(1), EXAMPLES, START)
    assert again != first
    assert opened(tmp_path).charge("run", order(1), EXAMPLES, START) == again
    assert [entry["round"] for entry in entries(tmp_path)] == [1, 2, 1]
    other = order(1)
    other.work_id = "1-0-b"
    for work in (order(2), other, order(1)):
        privacy.charge("run", work, EXAMPLES, START)
    assert [entry["round"] for entry in entries(tmp_path)] == [1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize(
    "other", [{"local_steps": 50}, {"first_batch": 5}, {"seed": 1}, {"version": 2}, {"momentum": 0.5}]
)
def test_other_work_under_the_same_id_is_charged_and_has_other_batches_and_noise(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """The id is the leader's word: it could ask for one step, and for a thousand under the same id."""
    privacy, asked = opened(tmp_path), order(noise_multiplier=2.0, epsilon=30.0)
    first = privacy.charge("run", asked, EXAMPLES, START)
    more = leader_pb2.WorkOrder()
    more.CopyFrom(asked)
    for name, value in other.items():
        setattr(more, name, value)
    assert privacy.charge("run", more, EXAMPLES, START)[1] != first[1]
    assert [entry["steps"] for entry in entries(tmp_path)] == [5, more.local_steps]


def test_the_same_order_on_another_model_is_charged_and_by_another_edge_it_is_free(tmp_path: Path) -> None:
    privacy, asked = opened(tmp_path), order(noise_multiplier=2.0, epsilon=30.0)
    first = privacy.charge("run", asked, EXAMPLES, START)
    assert privacy.charge("run", asked, EXAMPLES, START + 1)[1] != first[1]
    asked.via.ticket = b"of a leader that was started again"
    assert privacy.charge("run", asked, EXAMPLES, START) == first
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("other", [{"control_variates": True}, {"personal_lambda": 1.0}, {"fragments": 2}])
def test_an_order_whose_steps_are_not_those_that_are_charged_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    asked = order()
    asked.MergeFrom(leader_pb2.WorkOrder(**other))
    with pytest.raises(PayloadError, match="not those that privacy of examples charges"):
        opened(tmp_path).check(asked)


def test_a_budget_is_of_all_runs_and_once_it_is_spent_that_is_for_good(tmp_path: Path) -> None:
    three, four = (epsilon_of(5 * n * divergences_of(0.1, 2.0), 1e-5) for n in (3, 4))
    budget = (three + four) / 2
    privacy, asked = opened(tmp_path, budget), order(noise_multiplier=2.0)
    for run in ("one", "two", "three"):
        privacy.charge(run, asked, EXAMPLES, START)
    with pytest.raises(
        PrivacyError, match=r"to epsilon [\d.]+ of [\d.]+ \(--dp-budget\); it takes part no more"
    ):
        privacy.charge("four", asked, EXAMPLES, START)
    for less in (budget, 0.5):
        with pytest.raises(PrivacyError, match=r"is spent .* it takes part no more"):
            opened(tmp_path, less)
    opened(tmp_path, 6.0).charge("four", asked, EXAMPLES, START)
    with pytest.raises(PrivacyError, match=r"is spent .* it takes part no more"):
        opened(tmp_path, budget)  # what was charged under a larger one undoes nothing


def test_a_budget_is_not_stretched_by_a_delta_at_which_epsilon_says_nothing(tmp_path: Path) -> None:
    """Delta is the leader's to choose: at 0.9 many steps with next to no noise have an epsilon of 0."""
    asked = order(delta=0.9, noise_multiplier=0.5, epsilon=1000.0)
    with pytest.raises(PrivacyError, match=r"of 4 \(--dp-budget\)"):
        opened(tmp_path, budget=4.0).charge("run", asked, EXAMPLES, START)


def test_fewer_examples_than_a_batch_has_are_all_in_each(tmp_path: Path) -> None:
    opened(tmp_path).charge("run", order(), 20, START)
    assert entries(tmp_path)[0]["rate"] == 1.0


def test_a_budget_lets_no_work_be_done_without_noise(tmp_path: Path) -> None:
    plain = order()
    plain.ClearField("examples")
    opened(tmp_path).check(plain)
    with pytest.raises(PayloadError, match="work without noise for each example"):
        opened(tmp_path, 4.0).check(plain)
    opened(tmp_path, 4.0).check(order())


@pytest.mark.parametrize(
    "plan",
    [
        *({"clip": clip} for clip in (0, math.inf, math.nan)),
        *({"epsilon": epsilon} for epsilon in (0, math.inf, math.nan)),
        *({"delta": delta} for delta in (0, 1, math.nan)),
        *({"noise_multiplier": noise} for noise in (-1, 1e-3, 1e5, math.inf, math.nan)),
    ],
    ids=str,
)
def test_a_plan_that_promises_nothing_is_refused(tmp_path: Path, plan: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match="promises nothing"):
        opened(tmp_path).check(order(**plan))


def test_gradients_are_not_steps_of_its_own(tmp_path: Path) -> None:
    asked = order()
    asked.exchange = "gradient"
    with pytest.raises(PayloadError, match="promises nothing"):
        opened(tmp_path).check(asked)


def test_without_a_folder_there_is_no_ledger_and_no_work() -> None:
    with pytest.raises(PrivacyError, match="start the learner with --state-dir"):
        ExamplePrivacy(None, NoiseKeys(None)).charge("run", order(), EXAMPLES, START)


def test_a_line_that_a_crash_cut_off_is_cut_and_any_other_damage_is_an_error(tmp_path: Path) -> None:
    privacy = opened(tmp_path)
    for round_ in (1, 2, 3):
        privacy.charge("run", order(round_), EXAMPLES, START)
    path = tmp_path / "privacy.jsonl"
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"run": "ru')
    opened(tmp_path)
    assert path.read_bytes() == sound
    lines = sound.splitlines(keepends=True)
    for damaged in (lines[0] + lines[2], sound.replace(b'"steps": 5', b'"steps": 1', 1), b"{}\n", b"[]\n"):
        path.write_bytes(damaged)
        with pytest.raises(PrivacyError, match="is damaged"):
            opened(tmp_path)


def test_a_charge_is_synced_before_its_steps_may_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy, synced, sync = opened(tmp_path), list[tuple[int, int]](), os.fsync

    def watched(file: int) -> None:
        sync(file)
        synced.append((os.fstat(file).st_ino, os.fstat(file).st_size))

    monkeypatch.setattr(os, "fsync", watched)
    for round_ in (1, 2):
        privacy.charge("run", order(round_), EXAMPLES, START)
        ledger = (tmp_path / "privacy.jsonl").stat()
        assert (ledger.st_ino, ledger.st_size) in synced


def test_whenever_it_is_killed_all_that_was_trained_is_charged_once(tmp_path: Path) -> None:
    """Fifty histories of rounds, repeats, restarts and torn lines, beside a model of what must be there."""
    draw = random.Random(5)
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        privacy, trained, round_ = opened(folder), set[str](), 1
        for _ in range(12):
            match draw.randrange(4):
                case 0:
                    round_ += 1
                case 1:
                    privacy = opened(folder)
                case 2:
                    with (folder / "privacy.jsonl").open("ab") as file:
                        file.write(b'{"run": "run", "of')
                    privacy = opened(folder)
            asked = order(round_, noise_multiplier=2.0, epsilon=99.0)
            privacy.charge("run", asked, EXAMPLES, START)
            trained.add(asked.work_id)
        assert [entry["of"] for entry in entries(folder)] == sorted(
            trained, key=lambda of: int(of.split("-")[0])
        )
