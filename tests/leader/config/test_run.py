"""The schema of a run: what it refuses, and that it survives being written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from leader.config import DataConfig, RunConfig, TrainConfig, TrustConfig
from leader.config.yaml_file import SCHEMA, dump_config, read_config
from utils.errors import ConfigError

# What a YAML file can hold: no lone surrogates, which are no text in UTF-8.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def written_and_read(config: RunConfig, path: Path) -> RunConfig:
    path.write_text(dump_config(config), encoding="utf-8")
    return SCHEMA.build(read_config(path))


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        SCHEMA.build(read_config(path))
    return str(caught.value).replace(str(path), "run.yaml").splitlines()


def test_defaults_are_a_valid_run_that_ends_at_round_ten() -> None:
    assert RunConfig().rounds == 10


@pytest.mark.parametrize(
    ("listen", "mode", "secure"),
    [
        ("127.0.0.1:1", "auto", False),
        ("127.8.9.1:1", "auto", False),
        ("[::1]:1", "auto", False),
        ("localhost:1", "auto", False),
        ("0.0.0.0:1", "auto", True),
        ("[::]:1", "auto", True),
        ("192.168.1.7:1", "auto", True),
        ("localhost.example.org:1", "auto", True),
        ("127.0.0.1:1", "on", True),
        ("0.0.0.0:1", "off", False),
    ],
)
def test_a_leader_that_others_can_reach_is_secure_unless_it_was_told_otherwise(
    listen: str, mode: Literal["auto", "on", "off"], secure: bool
) -> None:
    assert RunConfig(listen=listen, trust=TrustConfig(mode=mode)).secure is secure


def test_config_can_not_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().train.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "key", "bad"),
    [
        ("", "rounds", 0),
        ("", "seed", 2**63),
        ("", "listen", "localhost"),
        ("", "listen", "localhost:65536"),
        ("train", "momentum", 1.0),
        ("train", "lr", 0.0),
        ("train", "lr", float("inf")),
        ("cohort", "quorum", 1.01),
        ("aggregate", "max_abs", 2.0**21),
        ("limits", "chunk_bytes", 2 * 2**20),
    ],
)
def test_values_just_out_of_range_are_refused(section: str, key: str, bad: object) -> None:
    values: dict[str, Any] = {section: {key: bad}} if section else {key: bad}
    with pytest.raises(ValidationError):
        RunConfig.model_validate(values)


def test_nesterov_without_momentum_is_refused_and_says_what_to_set() -> None:
    with pytest.raises(ValidationError, match=r"set train\.nesterov=false"):
        TrainConfig(momentum=0.0)
    assert TrainConfig(momentum=0.0, nesterov=False).momentum == 0.0


@given(source=TEXTS, lr=st.floats(min_value=1e-300, max_value=1e300), seed=st.integers(0, 2**63 - 1))
def test_a_written_config_is_read_back_as_the_same_values(
    source: str, lr: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(source != "none")  # needs data.holder=learner
    config = RunConfig(seed=seed, data=DataConfig(source=source), train=TrainConfig(lr=lr))
    assert written_and_read(config, tmp_path_factory.getbasetemp() / "config.yaml") == config


def test_a_written_config_keeps_the_run_folder_and_has_a_comment_on_each_line(tmp_path: Path) -> None:
    config = RunConfig(run_dir=tmp_path / "a #1: b")
    assert written_and_read(config, tmp_path / "config.yaml") == config
    lines = [line for line in dump_config(config).splitlines() if line]
    assert all("  # " in line for line in lines)
    assert "  lr: 0.1                         # peak learning rate" in lines
    assert len(lines) == len(SCHEMA.keys) + len(SCHEMA.sections)


def test_all_problems_of_a_file_are_told_each_with_its_line(tmp_path: Path) -> None:
    text = (
        "rounds: true\ntrain:\n  learing_rate: 0.2\n  lr: -1\nlog: 3\ntrian: {lr: 1}\ndata: {source: 007}\n"
    )
    assert sorted(problems(tmp_path / "run.yaml", text)) == [
        "run.yaml:1: rounds is true; allowed: whole number from 1 to 10000000",
        "run.yaml:3: train.learing_rate: unknown key; did you mean train.lr?",
        "run.yaml:4: train.lr is -1; allowed: number above 0",
        "run.yaml:5: log is a section, not a value; its keys are log.format, log.level",
        "run.yaml:6: trian: unknown key; did you mean train?",
        "run.yaml:7: data.source is 7; allowed: text, in quotes if it looks like something else",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rounds: 1\nrounds: 2\n", "run.yaml:2: rounds: given twice, first at run.yaml:1"),
        ("log: {level: info}\nlog:\n  level: debug\n", "run.yaml:2: log: given twice, first at run.yaml:1"),
        ("train:\n  lr: 1\n  lr: 1\n", "run.yaml:3: train.lr: given twice, first at run.yaml:2"),
        ("- rounds\n", "run.yaml:1: the config must be KEY: VALUE lines, such as rounds: 10"),
        ("rounds: a\x00b", "run.yaml: not a YAML text file: special characters are not allowed, byte 9"),
        (
            "data: {dir: 2024-13-01}\nrounds: 0",
            "run.yaml:2: rounds is 0; allowed: whole number from 1 to 10000000",
        ),
        ("train: {warmup: [0.1]}", "run.yaml:1: train.warmup is [0.1]; allowed: number from 0 to 1"),
        (
            "rounds: 1\ntrain: {lr: 1\nlog: {}\n",
            "run.yaml:3: not valid YAML: while parsing a flow mapping, expected ',' or '}', but got ':'",
        ),
        (
            "train:\n  momentum: 0\n",
            "run.yaml:2 (train.momentum is 0): nesterov needs momentum > 0; set train.nesterov=false",
        ),
        (
            "listen: here",
            "run.yaml:1: listen is 'here'; it must be HOST:PORT with a port from 0 to 65535",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path / "run.yaml", text) == [problem]


def test_yaml_that_names_python_objects_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "run.yaml", "rounds: !!python/object/apply:os.getpid []\n")
    assert line.startswith("run.yaml:1: not valid YAML: could not determine a constructor")


@pytest.mark.parametrize("text", ["", "# nothing\n", "train:\nlog: {}\n"])
def test_a_file_without_settings_is_the_default_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert SCHEMA.build(read_config(path)) == RunConfig()


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {weight_decay: 1e-3}")
    assert SCHEMA.build(read_config(path)).train.weight_decay == 0.001
