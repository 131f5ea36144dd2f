"""The command `flockstep`: its words, what it refuses, and what completes it in a shell."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from leader.config.yaml_file import SCHEMA
from scripts import command, completion
from utils.errors import ConfigError
from utils.version import RELEASE


def flockstep(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    """The exit code of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["flockstep", *argv])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with pytest.raises(SystemExit) as ended:
        sys.exit(command.main())
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_has_a_line_for_every_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flockstep(monkeypatch, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for word, known in command.WORDS.items():
        assert any(line.split(maxsplit=1) == [word, known.about] for line in lines)


def test_the_version_is_the_release(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flockstep(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith(f"flockstep {RELEASE} ")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["leder"], "leder: unknown word; did you mean leader?"),
        (["simulation"], "simulation: unknown word; did you mean simulate?"),
        (["xyzzy"], "xyzzy: unknown word; see flockstep --help"),
        ([], "give a word: leader, learner, "),
        (["--verison"], "--verison: unknown flag; did you mean --version?"),
        (["completion", "fish"], "flockstep completion bash"),
    ],
)
def test_what_it_does_not_know_is_a_wrong_flag(
    argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flockstep(monkeypatch, *argv) == ConfigError.exit_code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("word", [word for word in command.WORDS if word != "completion"])
def test_a_word_has_the_flags_and_exit_codes_of_its_module(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flockstep(monkeypatch, word, "--help") == 0
    by_word = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        import_module(command.WORDS[word].module).main()
    assert capsys.readouterr().out == by_word
    assert flockstep(monkeypatch, word, "--no-such-flag") == ConfigError.exit_code
    assert capsys.readouterr().err != ""


def completed(*words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    ask = (
        f"COMP_WORDS=({' '.join(f'{word!r}' for word in words)}); COMP_CWORD={len(words) - 1}; "
        'compopt() { :; }; _flockstep; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = subprocess.run(
        ["bash", "-euc", completion.script("bash") + ask], capture_output=True, text=True, check=True
    )
    assert found.stderr == ""
    return found.stdout.split()


def test_bash_completes_words_flags_values_and_config_keys() -> None:
    assert completed("flockstep", "lea") == ["leader", "learner"]
    assert completed("flockstep", "learner", "--reconn") == ["--reconnect-timeout-s"]
    assert completed("flockstep", "leader", "--exchange", "g") == ["gradient"]
    assert completed("flockstep", "leader", "--rounds", "3", "--set", "train.local") == [
        "train.local_steps=",
        "train.local_epochs=",
    ]
    assert completed("flockstep", "partition", "--kind", "d") == ["dirichlet"]
    assert completed("flockstep", "trust", "token", "--repl") == ["--replace"]
    assert completed("flockstep", "trust", "token", "--role", "op") == ["operator"]
    assert completed("flockstep", "completion", "") == ["bash", "zsh"]


def test_bash_completes_a_simulation_with_its_own_flags_and_the_leaders() -> None:
    assert {"--workers", "--rounds"} <= set(completed("flockstep", "simulate", "--"))


def test_where_a_file_is_wanted_the_shell_completes_files() -> None:
    assert completed("flockstep", "leader", "--config", "") == []
    assert "complete -o default" in completion.script("bash")


def test_zsh_knows_the_same_words_flags_and_keys() -> None:
    script = completion.script("zsh")
    assert script.startswith("#compdef flockstep\n")
    cases = [line for line in completion.script("bash").splitlines() if line.endswith(";;")]
    assert len(cases) > 10
    assert [line for line in script.splitlines() if line.endswith(";;")] == cases
    assert all(f"{key}=" in script for key in SCHEMA.keys)


def test_a_task_in_the_working_directory_is_found_but_hides_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").touch()
    (tmp_path / "task_that_lies_here.py").write_text("found = True")
    command._look_last_in(tmp_path)
    assert import_module("task_that_lies_here").found
    assert not Path(import_module("model").__file__ or "").is_relative_to(tmp_path)
