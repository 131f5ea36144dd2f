from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.outcome.codecs import (
    FULL,
    NONE,
    QUICK,
    SETTINGS,
    Setting,
    deficit,
    find_data,
    moved,
    settings,
    share,
    summarise,
    targets,
)
from benchmarks.outcome.codecs_page import draw_codecs, page, rows
from benchmarks.outcome.codecs_run import Outcome, run_folder, run_once
from benchmarks.result import SkippedError
from leader.config.yaml_file import SCHEMA
from utils.datasets import save_dataset, synthetic_shapes

BASE = [Outcome(0.80, 1_000_000, 1_000_000, 60.0), Outcome(0.78, 1_000_000, 1_000_000, 62.0)]
INT8 = "per step, int8 both ways"
MACHINE = {"cores": 2, "cpu": "a", "system": "b", "python": "3", "torch": "2", "numpy": "2"}


def study(name: str, *these: Outcome) -> dict[str, list[Outcome]]:
    """Every setting as it is without codec, but one."""
    return {setting.name: BASE for setting in SETTINGS} | {name: list(these)}


def test_shares_and_deficits_are_of_the_means_over_the_seeds() -> None:
    these = [Outcome(0.79, 200_000, 300_000, 60.0), Outcome(0.77, 300_000, 300_000, 60.0)]
    assert share(these, BASE, moved) == pytest.approx(0.275)
    assert deficit(these, BASE) == pytest.approx(1.0)


def test_a_codec_that_saves_bytes_and_keeps_the_accuracy_meets_its_targets() -> None:
    good = Outcome(0.787, 260_000, 260_000, 60.0)
    saved, kept = targets(study(INT8, good))[:2]
    assert saved.value == pytest.approx(26)
    assert saved.met
    assert kept.value == pytest.approx(0.3)
    assert kept.met


def test_more_bytes_or_less_accuracy_than_promised_misses() -> None:
    poor = Outcome(0.77, 280_000, 280_000, 60.0)
    assert [target.met for target in targets(study(INT8, poor))[:2]] == [False, False]


def test_a_codec_for_one_way_is_held_to_the_bytes_of_that_way() -> None:
    sparse = Outcome(0.79, 15_000, 1_000_000, 60.0)
    saved = targets(study("per step, top-k up", sparse))[2]
    assert saved.value == pytest.approx(1.5)
    assert saved.met


def test_a_part_of_the_study_promises_nothing() -> None:
    part = {name: these for name, these in study(INT8, *BASE).items() if name in QUICK.names}
    result = summarise(part, QUICK)
    assert result.targets == ()
    assert len(result.figures) == 2


def test_the_whole_study_promises_all_its_targets() -> None:
    assert len(summarise(study(INT8, *BASE), FULL).targets) == 6


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_trains_as_many_steps_in_a_config_that_the_leader_takes(setting: Setting) -> None:
    chosen = settings(setting, FULL, Path("data"), seed=1)
    given = SCHEMA.from_text(("--set", key, str(value)) for key, value in chosen.items())
    config = SCHEMA.build(given)
    assert config.rounds * config.train.local_steps == FULL.steps
    assert config.seed == 1


def test_the_page_has_a_row_a_setting_with_its_share_of_the_bytes() -> None:
    result = summarise(study(INT8, Outcome(0.787, 260_000, 240_000, 60.0)), FULL)
    by_name = {row[0]: row for row in rows(result.series)}
    assert by_name[NONE][2:] == ["79.00 ± 1.41", "1", "1", "100 %", "100 %", "61"]
    assert by_name[INT8][2:] == ["78.70 ± 0.00", "0.26", "0.24", "25 %", "26 %", "60"]
    text = page(result, MACHINE)
    assert "| per step, int8 both ways |" in text
    assert "`codec.up=int8`" in text
    assert "promised at most 27: met" in text


def test_the_plot_is_drawn_from_the_columns_of_the_result(tmp_path: Path) -> None:
    draw_codecs(summarise(study(INT8, *BASE), FULL).series, tmp_path / "codecs.png")
    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")


def test_without_cifar10_the_entry_is_skipped_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # no folder can be made below it, so that no download is tried
    with pytest.raises(SkippedError, match=r"no CIFAR-10 in .*data, .* make bench DATA=DIR"):
        find_data(tmp_path / "file" / "data")


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    one = run_folder(tmp_path, "none-0", {"train.lr": 0.4, "rounds": 8})
    assert one == run_folder(tmp_path, "none-0", {"rounds": 8, "train.lr": 0.4})
    assert one != run_folder(tmp_path, "none-0", {"train.lr": 0.8, "rounds": 8})


@pytest.mark.slow
def test_a_run_counts_the_bytes_of_models_and_updates_and_is_made_once(tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"part-{number}.safetensors")
        save_dataset(synthetic_shapes(64, 10, seed=number).train, paths[-1])
    config = {
        "model.name": "resnet9-w8",
        "data.source": "synthetic",
        "data.holder": "learner",
        "data.test_examples": 10,
        "train.local_steps": 1,
        "train.batch_size": 8,
        "rounds": 3,
        "evaluation.every": 0,
    }
    (tmp_path / "run" / "run").mkdir(parents=True)
    (tmp_path / "run" / "left-over").touch()  # of a run that was stopped half way
    (tmp_path / "run" / "run" / "summary.json").write_text('{"stopped": "stopped by SIGTERM"}')
    made = run_once(tmp_path / "run", config, paths)
    assert not (tmp_path / "run" / "left-over").exists()
    one_way = 3 * 2 * 4 * 103_954  # rounds, learners, float32 parameters
    assert one_way < made.up < 1.02 * one_way
    assert one_way < made.down < 1.02 * one_way
    assert asdict(run_once(tmp_path / "run", config, [])) == asdict(made)
