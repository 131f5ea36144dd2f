"""The leader's command line: who wins, what is refused with which words, what help shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from leader.cli import Command, parse
from leader.config import RunConfig
from leader.config.recipes import RECIPES
from leader.config.yaml_file import SCHEMA, dump_config
from leader.storage.run_folder import RunFolder
from utils.errors import ConfigError
from utils.version import RELEASE


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(list(argv), environ)
    return str(caught.value)


def config_file(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def run_folder(path: Path, config: RunConfig) -> str:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(config))
    return str(path)


def test_no_arguments_give_the_default_run() -> None:
    assert parse([], {}) == Command(RunConfig(), None, False)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = [
        "--config",
        config_file(tmp_path, "rounds: 2\nseed: 2\nlearners: 2\ntrain: {lr: 2.0, warmup: 0.5}\n"),
    ]
    environ = {"FLOCKSTEP_ROUNDS": "3", "FLOCKSTEP_SEED": "3", "FLOCKSTEP_TRAIN__LR": "3.0"}
    config = parse([*file, "--rounds", "4", "--set", "train.lr=4"], environ).config
    assert (config.rounds, config.train.lr) == (4, 4.0)
    assert config.seed == 3
    assert (config.learners, config.train.warmup) == (2, 0.5)
    assert config.train.momentum == RunConfig().train.momentum


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_it_says_and_everything_beats_it(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    settings = SCHEMA.values(parse(["--recipe", name], {}).config)
    assert {key: settings[key] for key in recipe} == recipe
    assert {key for key in settings if settings[key] != SCHEMA.values(RunConfig())[key]} <= set(recipe)
    file = ["--config", config_file(tmp_path, "train: {schedule: constant, warmup: 0.5}\n")]
    config = parse([*file, "--recipe", name], {"FLOCKSTEP_TRAIN__WARMUP": "0.25"}).config
    assert (config.train.schedule, config.train.warmup) == ("constant", 0.25)


def test_of_two_flags_for_one_key_the_later_counts() -> None:
    assert parse(["--rounds", "4", "--set", "rounds=5"], {}).config.rounds == 5
    assert parse(["--set", "rounds=5", "--rounds", "4"], {}).config.rounds == 4


def test_every_flag_sets_its_key() -> None:
    argv = (
        "--listen 0.0.0.0:7 --data synthetic --model resnet20 --learners 3 --exchange gradient --rounds 4 "
        "--seed 5 --run-dir out --log-format json --print-config"
    )
    command = parse(argv.split(), {})
    config = command.config
    assert (config.listen, config.data.source, config.model.name) == ("0.0.0.0:7", "synthetic", "resnet20")
    assert (config.learners, config.exchange, config.rounds, config.seed) == (3, "gradient", 4, 5)
    assert (config.run_dir, config.log.format, command.print_config) == (Path("out"), "json", True)


@pytest.mark.parametrize("text", ["007", "no", "null", "2026-01-01", "a #1: b", "[x", "'"])
def test_text_is_taken_as_written_from_flags_and_environment(text: str) -> None:
    assert parse(["--data", text], {}).config.data.source == text
    assert parse(["--set", f"data.source={text}"], {}).config.data.source == text
    assert parse([], {"FLOCKSTEP_DATA__SOURCE": text}).config.data.source == text


def test_quotes_null_and_booleans_are_read_as_yaml() -> None:
    assert parse(["--set", "data.source='a b'"], {}).config.data.source == "a b"
    assert parse(["--set", "run_dir=null"], {"FLOCKSTEP_RUN_DIR": "x"}).config.run_dir is None
    assert parse([], {"FLOCKSTEP_DIAL_LEARNERS": "off"}).config.dial_learners is False
    assert parse(["--set", "train.weight_decay=1e-3"], {}).config.train.weight_decay == 0.001


def test_variables_of_the_learner_and_of_fault_injection_are_left_alone() -> None:
    environ = {"FLOCKSTEP_LEARNER_NAME": "a", "FLOCKSTEP_FAULTS": "x", "FLOCK": "1", "PATH": "/bin"}
    assert parse([], environ).config == RunConfig()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("FLOCKSTEP_ROUND", "FLOCKSTEP_ROUND: unknown variable; did you mean FLOCKSTEP_ROUNDS?"),
        ("FLOCKSTEP_TRAIN_LR", "FLOCKSTEP_TRAIN_LR: unknown variable; did you mean FLOCKSTEP_TRAIN__LR?"),
        ("FLOCKSTEP_FAULTS2", "FLOCKSTEP_FAULTS2: unknown variable; see --help"),
        ("FLOCKSTEP_TRAIN__LR", "FLOCKSTEP_TRAIN__LR: train.lr is 'x'; allowed: number above 0"),
    ],
)
def test_wrong_variables_are_refused(variable: str, message: str) -> None:
    assert refusal(**{variable: "x"}) == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--round 3", "--round: unknown flag; did you mean --rounds?"),
        ("--lr=3", "--lr: unknown flag; did you mean --set train.lr=VALUE?"),
        ("--learning-rate 3", "--learning-rate: unknown flag; did you mean --set train.lr=VALUE?"),
        ("--zzz", "--zzz: unknown flag; see --help"),
        ("--rounds", "--rounds: expected one argument; see --help"),
        ("cifar10", "unexpected argument 'cifar10'; settings are given by flags, see --help"),
        ("--set lr", "--set: 'lr' is not KEY=VALUE, such as train.lr=0.05; see --help"),
        ("--set =1", "--set: '=1' is not KEY=VALUE, such as train.lr=0.05; see --help"),
        ("--set lr=1", "--set: lr: unknown key; did you mean train.lr?"),
        ("--set log.levl=1", "--set: log.levl: unknown key; did you mean log.level?"),
        ("--set log=1", "--set: log is a section, not a value; its keys are log.format, log.level"),
        ("--rounds 1.5", "--rounds: rounds is 1.5; allowed: whole number from 1 to 10000000"),
        ("--rounds=", "--rounds: rounds is null; allowed: whole number from 1 to 10000000"),
        ("--rounds true", "--rounds: rounds is true; allowed: whole number from 1 to 10000000"),
        ("--seed -1", "--seed: seed is -1; allowed: whole number from 0 to below 9223372036854775808"),
        ("--set train.lr=.nan", "--set: train.lr is .nan; allowed: number above 0"),
        ("--exchange grad", "--exchange: exchange is 'grad'; allowed: gradient, delta"),
        ("--config no/such.yaml", "no/such.yaml: no such config file; give an existing one with --config"),
        ("--resume no/such", "--resume: no/such: no such folder; give the folder of an earlier run"),
        ("--round 1 --sed 1", "--round: unknown flag; did you mean --rounds?\n"
         "--sed: unknown flag; did you mean --seed?"),
        ("--rounds 0 --seed x", "--rounds: rounds is 0; allowed: whole number from 1 to 10000000\n"
         "--seed: seed is 'x'; allowed: whole number from 0 to below 9223372036854775808"),
    ],
)  # fmt: skip
def test_wrong_flags_are_refused_one_line_a_problem(argv: str, message: str) -> None:
    assert refusal(*argv.split()) == message


def test_text_that_is_not_utf8_is_refused() -> None:
    assert refusal("--data", "a\udcff").startswith("--data: data.source is 'a\\udcff'; allowed: text")


def test_an_unknown_model_names_origin_closest_and_all() -> None:
    message = refusal(FLOCKSTEP_MODEL__NAME="resnet21")
    assert message.startswith(
        "FLOCKSTEP_MODEL__NAME: model.name is 'resnet21'; did you mean resnet20? allowed: "
    )
    assert "resnet9-w16" in message


def test_printed_config_is_the_same_run_again(tmp_path: Path) -> None:
    config = parse(["--rounds", "7", "--set", "log.level=debug", "--run-dir", "a: b"], {}).config
    path = config_file(tmp_path, dump_config(config))
    assert parse(["--config", path], {}).config == config


def test_a_resumed_run_has_the_config_it_was_started_with(tmp_path: Path) -> None:
    started = RunConfig(rounds=3, seed=9, run_dir=Path("elsewhere"))
    run_dir = run_folder(tmp_path / "run", started)
    command = parse(["--resume", run_dir], {})
    assert command.resume == tmp_path / "run"
    assert command.config == started.model_copy(update={"run_dir": tmp_path / "run"})


@pytest.mark.parametrize(
    ("argv", "mode"), [([], "auto"), (["--secure"], "on"), (["--secure", "--insecure"], "off")]
)
def test_trust_is_switched_by_a_flag(argv: list[str], mode: str) -> None:
    assert parse(argv, {}).config.trust.mode == mode


def test_a_resumed_run_may_go_on_longer_and_elsewhere(tmp_path: Path) -> None:
    run_dir = run_folder(tmp_path / "run", RunConfig(rounds=3))
    flags = "--rounds 6 --listen h:1 --set cohort.lease_s=5 --set limits.stall_s=9 --set keep_checkpoints=1"
    config = parse(
        ["--resume", run_dir, "--run-dir", run_dir + "/", *flags.split()], {"FLOCKSTEP_SEED": "0"}
    ).config
    assert (config.rounds, config.listen, config.cohort.lease_s) == (6, "h:1", 5.0)
    assert (config.limits.stall_s, config.keep_checkpoints) == (9.0, 1)


def test_a_resumed_run_refuses_to_become_another_run(tmp_path: Path) -> None:
    run_dir = run_folder(tmp_path / "run", RunConfig(seed=1))
    message = refusal(
        "--resume", run_dir, "--seed", "2", FLOCKSTEP_TRAIN__LR="0.5", FLOCKSTEP_COHORT__QUORUM="0.5"
    )
    end = "leave it out, or start a new run without --resume"
    assert message.splitlines() == [
        f"--seed: seed is 2, but this run has 1 for good; {end}",
        f"FLOCKSTEP_TRAIN__LR: train.lr is 0.5, but this run has 0.1 for good; {end}",
        f"FLOCKSTEP_COHORT__QUORUM: cohort.quorum is 0.5, but this run has 1.0 for good; {end}",
    ]


def test_resuming_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    message = f"--resume: {tmp_path} has no config.yaml, so it is not the folder of a run"
    assert refusal("--resume", str(tmp_path)) == message


def test_continue_starts_a_run_where_there_is_none_and_goes_on_where_there_is_one(tmp_path: Path) -> None:
    file = config_file(tmp_path, f"rounds: 3\nrun_dir: {tmp_path}/run\n")
    same = ["--continue", "--config", file]
    first = parse(same, {})
    assert (first.resume, first.config.rounds) == (None, 3)
    folder = RunFolder.create(tmp_path / "run", dump_config(first.config))
    (folder.checkpoints / "round-00000000.safetensors").touch()
    assert parse(same, {}).resume == folder.path
    longer = parse([*same, "--rounds", "6"], {})
    assert (longer.resume, longer.config.rounds, longer.config.seed) == (folder.path, 6, first.config.seed)
    end = "leave it out, or start a new run without --resume"
    message = f"FLOCKSTEP_SEED: seed is 8, but this run has {first.config.seed} for good; {end}"
    assert refusal(*same, FLOCKSTEP_SEED="8") == message


def test_continue_clears_away_a_start_that_was_cut_before_its_first_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, dump_config(RunConfig(run_dir=tmp_path, seed=1)))
    (folder.checkpoints / "round-00000000.safetensors.partial").touch()
    folder.metrics.touch()
    command = parse(["--continue", "--run-dir", str(tmp_path), "--seed", "2"], {})
    assert (command.resume, command.config.seed, folder.holds_run) == (None, 2, True)
    command.clear_away()
    assert not folder.holds_run
    RunFolder.create(tmp_path, dump_config(command.config))


@pytest.mark.parametrize("file", ["metrics.jsonl", "summary.json", "model.safetensors", "best.safetensors"])
def test_continue_never_clears_away_a_run_whose_checkpoints_alone_are_gone(tmp_path: Path, file: str) -> None:
    folder = RunFolder.create(tmp_path, dump_config(RunConfig(run_dir=tmp_path)))
    (tmp_path / file).write_text("{}\n")
    command = parse(["--continue", "--run-dir", str(tmp_path)], {})
    command.clear_away()
    assert command.resume == tmp_path  # which is then refused: there is no checkpoint
    assert folder.config.exists()


def test_continue_needs_a_folder_and_no_other_one(tmp_path: Path) -> None:
    message = "--continue: say in which folder, each time the same: --run-dir DIR"
    assert refusal("--continue") == message
    assert refusal("--continue", "--set", "run_dir=null") == message
    both = refusal("--continue", "--resume", str(tmp_path))
    assert both == "--resume: not allowed with argument --continue; see --help"


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal_and_shows_every_flag_and_key(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], {})
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert max(map(len, text.splitlines())) < columns
    words = set(text.split())
    assert set(SCHEMA.keys) <= words
    flags = "--config --set --listen --data --model --learners --exchange --rounds --seed --run-dir --resume"
    assert {*flags.split(), "--print-config", "--log-format", "--version", "--secure"} <= words
    assert "    train.lr                peak learning rate (number above 0) [0.1]" in text


def test_version_names_release_and_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--version"], {})
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"flockstep {RELEASE} (protocol 1)\n"
